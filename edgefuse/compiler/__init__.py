"""The compiler: from a recipe to candidates, a search and checked bundles."""

from edgefuse.compiler.compilation import CompileResult, compile

__all__ = ["CompileResult", "compile"]
