"""Files of weights, as safetensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from safetensors.torch import load_file, save_file
from torch import Tensor

from edgefuse.bundle.spec import ModelSpec
from edgefuse.errors import DataError


class Named(Protocol):
    """A module that has a spec."""

    @property
    def spec(self) -> ModelSpec:
        """Its name is told in errors."""

    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> object:
        """Take the weights."""


def load(model: Named, path: Path) -> None:
    """Load what `save` wrote.

    Raises:
        DataError: the file is missing or holds the weights of another model.
    """
    if not path.is_file():
        raise DataError(f"the weight file of '{model.spec.name}' is missing", got=f"no file '{path}'")
    try:
        model.load_state_dict(load_file(path))
    except RuntimeError as error:
        raise DataError(f"'{path.name}' does not hold the weights of '{model.spec.name}'", got=str(error)) from error


def save(state: Mapping[str, Tensor], path: Path) -> None:
    """Write weights so that everybody may read them; their folder is made if there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in state.items()}, path)
    path.chmod(0o644)  # it was written for the owner alone
