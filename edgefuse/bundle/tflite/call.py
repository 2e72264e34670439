"""One operator of a TFLite graph with its tensors and options: the argument of every rule."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from edgefuse.bundle.refusal import RefusedError
from edgefuse.bundle.tflite.schema import Model, Shape, Tensor

Option: TypeAlias = "float | tuple[int, ...]"

MAX_LIST = 64
"""Of sizes, axes or parts that an operator takes from a constant."""

MAX_STEP = 2**16
"""Of strides and dilations: their products with sizes stay within 32 bits."""


@dataclass(frozen=True, slots=True)
class Call:
    """An operator with its tensors and options.

    Attributes:
        inputs: None where one is left out.
    """

    model: Model
    kind: str
    inputs: Sequence[Tensor | None]
    outputs: Sequence[Tensor]
    options: Mapping[str, Option]

    def need(self, holds: object, what: str) -> None:
        """Refuse the file unless something holds; `what` it is, as in "whose …"."""
        if not holds:
            shapes = ", ".join(str(list(each.shape)) if each else "none" for each in self.inputs)
            raise RefusedError(f"has an operator {self.kind} whose {what}, on inputs of the shapes {shapes}")

    def input(self, position: int) -> Tensor:
        """Return an input that must be there."""
        found = self.inputs[position] if position < len(self.inputs) else None
        if found is None:
            raise RefusedError(f"has an operator {self.kind} without its input {position}")
        return found

    def optional(self, position: int) -> Tensor | None:
        """Return an input that may be left out."""
        return self.inputs[position] if position < len(self.inputs) else None

    def shape(self, position: int, *ranks: int) -> Shape:
        """Return the shape of an input, which has one of these ranks if there are any."""
        shape = self.input(position).shape
        self.need(not ranks or len(shape) in ranks, f"input {position} has another rank than {ranks}")
        return shape

    def integer(self, option: str, low: int = 0, high: int = MAX_STEP) -> int:
        """Return an option that must lie within bounds.

        Args:
            option: its name in the schema.
            low: the least value.
            high: the greatest value.
        """
        value = self.options[option]
        self.need(isinstance(value, int) and low <= value <= high, f"{option} is {value}")
        return int(value)  # type: ignore[arg-type]  # checked

    def integers(self, option: str, length: int, low: int, high: int = MAX_STEP) -> tuple[int, ...]:
        """Return an option that is a list of this many integers within bounds.

        Args:
            option: its name in the schema.
            length: of the list.
            low: the least value.
            high: the greatest value.
        """
        value = self.options[option]
        held = isinstance(value, tuple) and len(value) == length and all(low <= each <= high for each in value)
        self.need(held, f"{option} is {value}")
        return value  # type: ignore[return-value]  # checked

    def constant(self, position: int, low: int = -(2**31), high: int = 2**31 - 1) -> tuple[int, ...]:
        """Return the values of an input that must be a short constant of integers within bounds.

        Args:
            position: of the input.
            low: the least value.
            high: the greatest value.
        """
        tensor = self.input(position)
        fits = tensor.dtype in ("int32", "int64") and len(tensor.shape) <= 2 and tensor.elements <= MAX_LIST
        values = self.model.values(tensor) if fits else None
        if values is None:
            raise RefusedError(f"has an operator {self.kind} whose input {position} is not a constant list of integers")
        found: tuple[int, ...] = tuple(values.ravel().tolist())
        self.need(found or self.kind == "RESHAPE", f"input {position} is empty")
        self.need(all(low <= each <= high for each in found), f"input {position} is {list(found)}")
        return found

    def scalar(self, position: int, low: int = -(2**31), high: int = 2**31 - 1) -> int:
        """Return the value of an input that must be one constant integer within bounds.

        Args:
            position: of the input.
            low: the least value.
            high: the greatest value.
        """
        values = self.constant(position, low, high)
        self.need(len(values) == 1, f"input {position} is {list(values)}")
        return values[0]

    def axis(self, value: int, rank: int) -> int:
        """Return an axis counted from the front."""
        self.need(-rank <= value < rank, f"axis is {value}")
        return value % rank

    def check_indices(self, position: int, size: int) -> None:
        """Check indices that the file holds; those that are computed are the runtime's to check."""
        values = self.model.values(self.input(position))
        if values is not None and values.size:
            lowest, highest = np.min(values), np.max(values)
            self.need(0 <= lowest <= highest < size, f"indices are {lowest} to {highest} of {size}")


def broadcast(call: Call, *shapes: Shape) -> Shape:
    """Return the common shape that tensors are repeated to."""
    rank = max(map(len, shapes))
    padded = [(1,) * (rank - len(shape)) + shape for shape in shapes]
    common = tuple(max(sizes) for sizes in zip(*padded, strict=True))
    fits = all(size in (1, wanted) for shape in padded for size, wanted in zip(shape, common, strict=True))
    if not fits:
        call.need(None, f"shapes {[list(shape) for shape in shapes]} do not fit each other")
    return common


def replaced(shape: Shape, axis: int, *sizes: int) -> Shape:
    """Return a shape with other sizes (or none) in place of one.

    Args:
        shape: of a tensor.
        axis: to replace; negative ones count from the end.
        sizes: in its place.
    """
    return (*shape[:axis], *sizes, *shape[axis + 1 :])


def product(shape: Sequence[int]) -> int:
    """Return how many elements a shape has."""
    return math.prod(shape)
