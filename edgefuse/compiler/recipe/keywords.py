"""A recipe without a file: its keys are keywords of a call.

The keys of `[compile]`, `[device]`, `[search]` and `[quantize]` are keywords of their own names, and so are `weights`
and `assets` of `[model]`. The other sections take their table, as `recover={"epochs": 3}`: both `[recover]` and
`[compile]` have `threads`.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypedDict

from edgefuse.compiler.recipe import recipe as recipes
from edgefuse.compiler.recipe.recipe import Recipe
from edgefuse.errors import RecipeError


class Keywords(TypedDict, total=False):
    """What a recipe can say of a model and of data that are at hand; defaults are the recipe's."""

    weights: str
    assets: Sequence[str]
    targets: Sequence[str]
    threads: int
    device: str
    uri: str
    python: str
    timeout_seconds: float
    objective: str
    max_drop: float | str | Mapping[str, float | str]
    subsets: Sequence[str]
    max_fusion_passes: int
    caution: float
    max_latency_ms: float
    max_latency_share: float
    max_size_bytes: int
    max_memory_bytes: int
    min_snr_db: float | Sequence[float]
    ladder: Mapping[str, Any]
    prune: Mapping[str, Any]
    recover: Mapping[str, Any]
    report: Mapping[str, Any]
    schemes: Mapping[str, Sequence[str]]


TABLES = frozenset({"ladder", "prune", "recover", "report", "schemes"})
"""The keywords that take a whole section."""

_SECTIONS = {
    "compile": recipes.CompileSection,
    "device": recipes.DeviceSection,
    "search": recipes.SearchSection,
    "quantize": recipes.QuantizeSection,
}
SECTION_OF = MappingProxyType(
    {key: name for name, section in _SECTIONS.items() for key in section.__struct_fields__}
    | dict.fromkeys(("weights", "assets"), "model")
)
"""The section that each of the other keywords stands in."""


def call_of(name: str) -> Path:
    """Return what stands for the path of a recipe where there is no file: errors name it, names of files are relative.

    Args:
        name: of the function that was called.
    """
    return Path(f"edgefuse.{name}(…)")


def recipe_of(call: Path, keywords: Mapping[str, Any]) -> Recipe:
    """Return the recipe that says the same as the keywords of a call.

    Its factories have the names of the arguments that were given in their place.

    Args:
        call: what was called, as `call_of` names it.
        keywords: as `Keywords` lists them.

    Raises:
        RecipeError: if there is no such keyword; otherwise errors are those of a file that says the same.
    """
    table: dict[str, Any] = {"model": {"factory": "model"}, "data": {"factory": "splits"}}
    for key, value in keywords.items():
        if key in TABLES:
            table[key] = value
        elif key in SECTION_OF:
            table.setdefault(SECTION_OF[key], {})[key] = value
        else:
            raise _unknown(call, key)
    return recipes.read(call, table)


def _unknown(call: Path, key: str) -> RecipeError:
    known = sorted({*SECTION_OF, *TABLES})
    close = difflib.get_close_matches(key, known, n=1)
    fix = f"did you mean '{close[0]}'?" if close else f"leave it out; known keywords: {', '.join(known)}"
    return RecipeError(f"{call} has no keyword '{key}'", fix=fix)
