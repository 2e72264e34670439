"""Tensors: their names, types and shapes, of dimensions that are fixed, bounded or one of a few; a spec has them."""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

from edgefuse.bundle.outputs import Record

DType: TypeAlias = Literal["float32", "uint8", "int32"]
Declared: TypeAlias = DType | Literal["int64", "bool"]
"""What a user may say of an input: truth values and torch's int64 are int32 in files and on devices."""


class Bounded(Record, frozen=True, kw_only=True, tag_field="dim", tag="bounded"):
    """A dimension that may take any size from 1 to `max`."""

    max: int


class Bucketed(Record, frozen=True, kw_only=True, tag_field="dim", tag="bucketed"):
    """A dimension that takes one of a few fixed sizes, in ascending order."""

    sizes: tuple[int, ...]


Dim: TypeAlias = int | Bounded | Bucketed


def largest(dim: Dim) -> int:
    """Return the largest size that a dimension may take."""
    if isinstance(dim, Bounded):
        return dim.max
    return dim.sizes[-1] if isinstance(dim, Bucketed) else dim


def spelled(shape: tuple[Dim, ...]) -> str:
    """Spell a shape: `[1, <=50, 40]` with an upper bound, `[1, 32|64]` with buckets."""
    sizes = (
        f"<={dim.max}" if isinstance(dim, Bounded) else "|".join(map(str, getattr(dim, "sizes", (dim,))))
        for dim in shape
    )
    return f"[{', '.join(sizes)}]"


class TensorSpec(Record, frozen=True, kw_only=True):
    """The name, type and shape of a tensor; between stages it is called an interface.

    Attributes:
        name: unique within its owner (a modality or a stage).
        dtype: the element type.
        shape: dimensions with the batch (1 when deployed) first.
    """

    name: str
    dtype: DType = "float32"
    shape: tuple[Dim, ...]

    @property
    def max_shape(self) -> tuple[int, ...]:
        """The shape with every dimension at its largest."""
        return tuple(largest(dim) for dim in self.shape)

    @property
    def size_bytes(self) -> int:
        """Of the largest array."""
        return math.prod(self.max_shape) * (1 if self.dtype == "uint8" else 4)
