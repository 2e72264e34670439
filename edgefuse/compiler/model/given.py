"""A model and its data that are at hand, in place of the factories that a recipe names."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from edgefuse.bundle.spec import ModelSpec
from edgefuse.datasets.sample import Splits
from edgefuse.errors import DataError, EdgefuseError, ModelError, cited


@dataclass(frozen=True)
class Given:
    """A model, what it takes and gives, and its data."""

    module: nn.Module
    spec: ModelSpec
    data: Splits


def given(call: Path, model: object, spec: object, data: object) -> Given:
    """Return a copy of what was given to a call, if it is what it should be.

    The caller's module stays as it is, whatever a compile leaves in its own: it may be trained on and compiled again.

    Args:
        call: what was called.
        model: a torch module.
        spec: what it takes and gives.
        data: its splits.

    Raises:
        ModelError, DataError: if one of them is something else, or the module cannot be copied.
    """
    if not isinstance(model, nn.Module):
        raise _other(ModelError, call, "model", model, "a torch module")
    if not isinstance(spec, ModelSpec):
        raise _other(ModelError, call, "spec", spec, "an edgefuse.bundle.spec.ModelSpec")
    if not isinstance(data, Splits):
        raise _other(DataError, call, "splits", data, "edgefuse.datasets.Splits")
    try:
        module = copy.deepcopy(model)
    except Exception as error:  # the module's own code, which may raise anything
        raise ModelError(
            f"the model of {call} cannot be copied",
            got=cited(error),
            expected="a module that copy.deepcopy takes",
            fix="take out what cannot be copied (open files, locks, results of a graph), or name a factory in a recipe",
        ) from error
    return Given(module, spec, data)


def is_of_model(subject: Sequence[object], keywords: Mapping[str, object]) -> bool:
    """Tell whether a call is of a model at hand: the other form begins with the path of a recipe."""
    first = next(iter(subject), None)
    return "model" in keywords or not isinstance(first, str | os.PathLike | None)


def _other(kind: type[EdgefuseError], call: Path, argument: str, got: object, expected: str) -> EdgefuseError:
    return kind(f"the argument '{argument}' of {call} is of another type", got=type(got).__name__, expected=expected)
