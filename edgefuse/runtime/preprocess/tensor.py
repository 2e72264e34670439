"""Arrays as they are, after a check, and how many steps a tensor takes along an axis."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from edgefuse.bundle.spec import Bounded, Bucketed, Dim, Modality, TensorSpec, largest
from edgefuse.errors import InputError
from edgefuse.runtime.backends.backend import Array, padded


class TensorReader:
    """Checks the type, shape and values of a modality's arrays.

    A modality of one tensor takes an array, one of several takes a mapping from tensor name to array. Bounded sizes
    are kept and bucketed ones padded. If the modality has a `length`, it is what the first tensor has along axis 1,
    and fixed sizes there are padded, too.
    """

    def __init__(self, modality: Modality) -> None:
        self._name = modality.name
        self._tensors = modality.tensors
        self._length = modality.length

    def __call__(self, raw: object) -> dict[str, Array]:
        """Return the tensors; see `Preprocessor`."""
        arrays = raw if isinstance(raw, Mapping) else {self._tensors[0].name: raw}
        if set(arrays) != {tensor.name for tensor in self._tensors}:
            raise InputError(
                f"the arrays of '{self._name}' do not match its tensors",
                got=", ".join(map(str, arrays)) or "none",
                expected=", ".join(tensor.name for tensor in self._tensors),
            )
        checked = [self._checked(arrays[tensor.name], tensor) for tensor in self._tensors]
        values = {
            f"{self._name}.{tensor.name}": self._filled(value, tensor)
            for tensor, value in zip(self._tensors, checked, strict=True)
        }
        if self._length:
            values[f"{self._name}.length"] = np.array([checked[0].shape[1]], np.int32)
        return values

    def chunk(self, raw: object) -> Array:
        """Return a part of a stream of the first tensor's steps, [n, ...] from [1, n, ...]: as many as there are.

        Raises:
            InputError: if it has another type or shape, no steps, or values that are not finite.
        """
        steps: Array = self._checked(raw, self._tensors[0], any_steps=True)[0]
        return steps

    def _checked(self, raw: object, tensor: TensorSpec, any_steps: bool = False) -> Array:
        what = f"'{self._name}.{tensor.name}'"
        if not isinstance(raw, np.ndarray) or raw.dtype != tensor.dtype:
            got = raw.dtype if isinstance(raw, np.ndarray) else type(raw).__name__
            raise InputError(
                f"{what} has the wrong type",
                got=got,
                expected=f"an array of {tensor.dtype}",
                fix=f"convert it with numpy.asarray(values, '{tensor.dtype}')",
            )
        raw = plain(raw, what)
        if raw.ndim != len(tensor.shape) or not all(
            (any_steps and axis == 1 and size) or self._admits(dim, size, axis)
            for axis, (dim, size) in enumerate(zip(tensor.shape, raw.shape, strict=True))
        ):
            raise InputError(
                f"{what} has the wrong shape",
                got=list(raw.shape),
                expected=_spelled(tensor, self._length),
                fix="mind the batch dimension, which comes first" if raw.ndim == len(tensor.shape) - 1 else None,
            )
        if tensor.dtype == "float32" and not np.isfinite(raw).all():
            raise InputError(
                f"{what} holds values that are not finite",
                got=f"{np.count_nonzero(~np.isfinite(raw))} of {raw.size} NaN or infinite",
                expected="finite numbers",
            )
        return raw

    def _admits(self, dim: Dim, size: int, axis: int) -> bool:
        if isinstance(dim, int) and not (self._length and axis == 1):
            return size == dim
        return 1 <= size <= largest(dim)

    def _filled(self, value: npt.NDArray[np.generic], tensor: TensorSpec) -> Array:
        for axis, dim in enumerate(tensor.shape):
            value = fill(value, delivered(dim, value.shape[axis]), axis)
        return value


def plain(raw: npt.NDArray[np.generic], what: str) -> Array:
    """Return an array without what its subclass means; `InputError` if that hides a part of it."""
    if type(raw) is np.ndarray:
        return raw
    if isinstance(raw, np.ma.MaskedArray):
        raise InputError(
            f"{what} is a masked array", got="values that are masked out", expected="an array", fix="use .filled(0)"
        )
    return raw.view(np.ndarray)


def _spelled(tensor: TensorSpec, length: bool) -> str:
    """Return a shape as a reader of an error likes it: `[1, 1..5, 3]`."""
    sizes = [
        f"1..{largest(dim)}" if not isinstance(dim, int) or (length and axis == 1) else str(dim)
        for axis, dim in enumerate(tensor.shape)
    ]
    return f"[{', '.join(sizes)}]"


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
    """Return a modality's tensor under its key, with `length` (int32 [1]) if the modality has one.

    Args:
        name: of the modality.
        key: of the tensor.
        value: the array, batch first.
        steps: of it that are not padding.
        length: whether the modality has a length.
    """
    if not length:
        return {key: value}
    return {key: value, f"{name}.length": np.array([steps], np.int32)}


def fill(value: npt.NDArray[np.generic], size: int, axis: int = 1) -> Array:
    """Return the value padded with zeros to a size along an axis; itself if it has that size.

    Args:
        value: any array.
        size: to fill up to.
        axis: along which.
    """
    if value.shape[axis] == size:
        return value
    return padded(value, (*value.shape[:axis], size, *value.shape[axis + 1 :]))
