"""The compiler: from a recipe to candidates, a search and checked bundles."""

from edgefuse.compiler.evaluation.inductor import use_own_folder

use_own_folder()  # before anything imports torch's compiler, which makes its folder at once

from edgefuse.compiler.compilation import CompileResult, compile  # noqa: E402 - see above

__all__ = ["CompileResult", "compile"]
