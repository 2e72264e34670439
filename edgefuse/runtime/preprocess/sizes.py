"""How many steps a tensor takes along an axis, given what there is."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgefuse.bundle.spec import Bounded, Bucketed, Dim
from edgefuse.runtime.backends.backend import Array
from edgefuse.runtime.backends.ports import padded


def delivered(dim: Dim, steps: int) -> int:
    """Return the size that a dimension takes for a number of valid steps that does not exceed its largest.

    A fixed dimension is filled up, a bounded one keeps the steps, a bucketed one takes the smallest bucket that holds
    them.
    """
    if isinstance(dim, Bounded):
        return steps
    if isinstance(dim, Bucketed):
        return next(size for size in dim.sizes if size >= steps)
    return dim


def with_length(name: str, key: str, value: npt.NDArray[np.generic], steps: int, length: bool) -> dict[str, Array]:
    """Return a modality's tensor under its key, with `length` (int32 [1]) if the modality has one."""
    if not length:
        return {key: value}
    return {key: value, f"{name}.length": np.array([steps], np.int32)}


def fill(value: npt.NDArray[np.generic], size: int, axis: int = 1) -> Array:
    """Return the value padded with zeros to a size along an axis; itself if it has that size."""
    if value.shape[axis] == size:
        return value
    return padded(value, (*value.shape[:axis], size, *value.shape[axis + 1 :]))
