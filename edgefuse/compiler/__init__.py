"""The compiler: from a recipe to candidates, a search and checked bundles.

- `compilation`: the schedule: the list of all steps;
- `check`: what would stand in the way, before any long work;
- `recipe`: the recipe file;
- `model`: the model taken apart, and its data;
- `recovery`: pruned forms of stages;
- `candidates`: files that could run a stage;
- `evaluation`: answers over a split, drops, the torch reference;
- `timing`: how candidates and rungs are timed, or their cost counted;
- `search`: the choice of combinations;
- `rungs`: operating points, judged and timed;
- `report`: `report.json` and `report.html`;
- `workers`: where jobs run;
- `cache`: what is kept on disk.
"""

from edgefuse.compiler.evaluation.inductor import use_own_folder

use_own_folder()  # before anything imports torch's compiler, which makes its folder at once

from edgefuse.compiler.compilation import CompileResult, compile  # noqa: E402 - see above

__all__ = ["CompileResult", "compile"]
