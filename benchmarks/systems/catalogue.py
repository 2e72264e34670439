"""The systems that the examples describe: reference models with their recipes, and what is composed of several."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edgefuse.bundle.spec import Record
from edgefuse.commands.models import EXAMPLES, ReferenceData, ReferenceModel, models_of
from edgefuse.compiler.recipe.recipe import load
from edgefuse.errors import DataError, cited
from edgefuse.typed_json import decode

_FIRST = "recipe.toml"
"""Of several recipes for one model, the one without pruning and for this machine."""
_FILE = "composition.json"
"""What lies in the folder of an example that composes bundles."""


@dataclass(frozen=True)
class Entry:
    """A reference model and its recipe."""

    model: ReferenceModel
    recipe: Path

    @property
    def name(self) -> str:
        """That of the model."""
        return self.model.name


class Composition(Record, frozen=True, kw_only=True):
    """A system of several models, as its example describes it.

    Attributes:
        name: of the system.
        task: what it tells, in a sentence.
        modalities: that it takes.
        models: by their names.
        target: of their bundles.
        data: what it is judged on.
        asked_by: a module that is run with the path of a bundle for each model, in this order, and `--out FILE`. It
            asks the system as its clients do, and writes what `benchmarks.systems.composed.Asked` holds.
    """

    name: str
    task: str
    modalities: tuple[str, ...]
    models: tuple[str, ...]
    target: str
    data: ReferenceData
    asked_by: str


def entries(examples: Path = EXAMPLES) -> tuple[Entry, ...]:
    """Return the models that have a recipe, by name.

    Args:
        examples: a folder of folders with `models.json` and recipes.

    Raises:
        DataError, RecipeError: a file cannot be read, or is wrong.
    """
    return tuple(sorted(_entries(examples), key=lambda entry: entry.name))


def _entries(examples: Path) -> Iterator[Entry]:
    for folder, models in models_of(examples).items():
        recipes = {path: load(path).model.factory for path in sorted(folder.glob("*.toml"))}
        for model in models:
            fitting = [path for path, factory in recipes.items() if factory == model.factory]
            if fitting:
                yield Entry(model, next((path for path in fitting if path.name == _FIRST), fitting[0]))


def compositions(examples: Path, known: Collection[str]) -> tuple[Composition, ...]:
    """Return the systems that are composed of several models, by name.

    Args:
        examples: a folder of folders, some with `composition.json`.
        known: the models that can be compiled.

    Raises:
        DataError: a file cannot be read, or names another model.
    """
    return tuple(sorted(_compositions(examples, known), key=lambda one: one.name))


def _compositions(examples: Path, known: Collection[str]) -> Iterator[Composition]:
    for path in examples.glob(f"*/{_FILE}"):
        try:
            found = decode(path.read_bytes(), Composition)
        except (OSError, msgspec.MsgspecError) as error:
            raise DataError(f"cannot read the composition in {path}", got=cited(error)) from error
        for name in found.models:
            if name not in known:
                raise DataError(
                    f"the composition '{found.name}' has a model without a recipe",
                    got=repr(name),
                    expected=" or ".join(sorted(known)),
                )
        yield found
