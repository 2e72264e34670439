"""Models of recipes, taken apart and with their data, as a compile's steps get them."""

from __future__ import annotations

from pathlib import Path

from edgefuse.compiler.model.opening import take_apart
from edgefuse.compiler.model.preparation import prepare
from edgefuse.compiler.model.subject import Subject
from edgefuse.compiler.recipe import recipe as recipes
from edgefuse.datasets.cache import Cache
from edgefuse.progress import silent


def subject_of(recipe: Path, cache: Cache) -> Subject:
    model = take_apart(recipe, recipes.load(recipe))
    return prepare(model, cache, silent)
