"""The compiler: from a recipe to candidates, a search and checked bundles.

- `compilation`: the schedule: the list of all steps;
- `exporting`: a bundle with schemes that are named, by the same steps without a search;
- `check`: what would stand in the way, before any long work;
- `recipe`: the recipe file;
- `metrics`: how good answers are, by kind of output;
- `model`: the model taken apart, and its data;
- `recovery`: pruned forms of stages;
- `candidates`: files that could run a stage;
- `evaluation`: answers over a split, drops, the torch reference;
- `timing`: how candidates and rungs are timed, or their cost counted;
- `search`: the choice of combinations;
- `rungs`: operating points, judged and timed;
- `report`: `report.json` and `report.html`;
- `workers`: where jobs run;
- `forkserver`: the process that workers of this machine are forked from;
- `preloaded`: what that process imports;
- `cache`: what is kept on disk.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from edgefuse.compiler.evaluation.inductor import use_own_folder

if TYPE_CHECKING:
    from edgefuse.compiler.compilation import CompileResult, compile
    from edgefuse.compiler.exporting import ExportResult, export

__all__ = ["CompileResult", "ExportResult", "compile", "export"]

use_own_folder()  # before anything imports torch's compiler, which makes its folder at once


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'edgefuse.compiler' has no attribute '{name}'")
    home = "exporting" if name in ("ExportResult", "export") else "compilation"
    return getattr(import_module(f"edgefuse.compiler.{home}"), name)
