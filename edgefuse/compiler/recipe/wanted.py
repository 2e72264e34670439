"""A recipe for the targets that a command line names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from edgefuse.compiler.recipe.recipe import Recipe, check, load


def recipe_for(path: Path, targets: Sequence[str] | None) -> Recipe:
    """Return a recipe, for other targets than its own if some are named; errors are those of `load`.

    Args:
        path: of the recipe.
        targets: instead of the recipe's.
    """
    recipe = load(path)
    if targets:
        section = msgspec.structs.replace(recipe.compile, targets=tuple(targets))
        recipe = msgspec.structs.replace(recipe, compile=section)
        check(path, recipe)
    return recipe
