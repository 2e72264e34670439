"""The systems: reference models that the examples describe, with the recipe that compiles each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgefuse.commands.models import EXAMPLES, ReferenceModel, models_of
from edgefuse.compiler.recipe.recipe import load

_FIRST = "recipe.toml"
"""Of several recipes for one model, the one without pruning and for this machine."""


@dataclass(frozen=True)
class Entry:
    """A reference model and its recipe."""

    model: ReferenceModel
    recipe: Path


def entries(examples: Path = EXAMPLES) -> tuple[Entry, ...]:
    """Return the models that have a recipe, by name.

    Args:
        examples: a folder of folders with `models.json` and recipes.

    Raises:
        DataError, RecipeError: a file cannot be read, or is wrong.
    """
    return tuple(sorted(_entries(examples), key=lambda entry: entry.model.name))


def _entries(examples: Path) -> Iterator[Entry]:
    for folder, models in models_of(examples).items():
        recipes = {path: load(path).model.factory for path in sorted(folder.glob("*.toml"))}
        for model in models:
            fitting = [path for path, factory in recipes.items() if factory == model.factory]
            if fitting:
                yield Entry(model, next((path for path in fitting if path.name == _FIRST), fitting[0]))
