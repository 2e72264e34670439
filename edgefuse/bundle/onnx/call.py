"""One operator of an ONNX graph with what is known of its inputs: what the rules of operators look at."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np

from edgefuse.bundle.onnx.messages import Message
from edgefuse.bundle.onnx.tensors import Array
from edgefuse.bundle.refusal import RefusedError

Shape: TypeAlias = tuple[int, ...]

MAX_LISTED = 4096
"""Of integers in one attribute."""

_INTEGER, _BYTES, _INTEGERS = 3, 4, 8


@dataclass(frozen=True)
class Value:
    """What is known of a value before a run.

    Attributes:
        shape: its sizes, or the most that they can be.
        values: its numbers, where they follow from the file and the sizes of the inputs, and are few.
        exact: whether its sizes are just these.
        constant: whether it stands in the file.
        parts: of a sequence of tensors.
    """

    shape: Shape
    values: Array | None = None
    exact: bool = True
    constant: bool = False
    parts: tuple[Value, ...] | None = None

    @cached_property
    def elements(self) -> int:
        """How many numbers it has."""
        return sum(part.elements for part in self.parts) if self.parts is not None else math.prod(self.shape)


@dataclass(frozen=True)
class Call:
    """An operator.

    Attributes:
        inputs: None where one is left out.
        outputs: how many.
        held: a tensor that stands in its attributes, if its numbers are few.
    """

    kind: str
    inputs: Sequence[Value | None]
    outputs: int
    attributes: Mapping[str, Message]
    data: bytes
    held: Array | None = None

    def refuse(self, what: str) -> RefusedError:
        """Return why the file is refused; `what` the operator does, as in "which …"."""
        shapes = ", ".join(str(list(each.shape)) if each else "none" for each in self.inputs[:8])
        return RefusedError(f"has an operator {self.kind!a} which {what}, on inputs of the shapes {shapes}")

    def optional(self, position: int) -> Value | None:
        """Return an input that may be left out."""
        return self.inputs[position] if position < len(self.inputs) else None

    def input(self, position: int) -> Value:
        """Return an input that must be there."""
        found = self.optional(position)
        if found is None:
            raise RefusedError(f"has an operator {self.kind!a} without its input {position}")
        return found

    def shape(self, position: int = 0, least: int = 0) -> Shape:
        """Return the shape of an input, which has so many axes at the least."""
        shape = self.input(position).shape
        if len(shape) < least:
            raise self.refuse(f"needs {least} axes")
        return shape

    def integer(self, name: str, default: int) -> int:
        """Return an attribute that is an integer."""
        found = self.attributes[name].signed(self.data, _INTEGER, 1) if name in self.attributes else ()
        return found[-1] if found else default

    def integers(self, name: str) -> tuple[int, ...]:
        """Return an attribute that is a list of integers, an empty one where it is left out."""
        return self.attributes[name].signed(self.data, _INTEGERS, MAX_LISTED) if name in self.attributes else ()

    def text(self, name: str) -> str:
        """Return an attribute that is text."""
        spans = self.attributes[name].spans(_BYTES) if name in self.attributes else []
        return self.data[slice(*spans[-1])].decode("latin-1") if spans else ""

    def sizes(self, position: int) -> tuple[int, ...]:
        """Return the integers of an input, which must follow from the file and the sizes of what it is fed."""
        found = self.numbers(position)
        return tuple(int(each) for each in found)

    def numbers(self, position: int) -> tuple[float, ...]:
        """Return the finite numbers of an input, which must follow as those of `sizes` must."""
        values = self.input(position).values
        if values is None or not np.isfinite(values).all():
            raise self.refuse("makes as many numbers as only a run says")
        found: list[float] = values.ravel().tolist()
        return tuple(found)

    def listed(self, position: int, name: str) -> tuple[int, ...] | None:
        """Return integers that stand in an input or, in older files, in an attribute; None where only a run says."""
        found = self.optional(position)
        if found is None:
            return self.integers(name)
        if found.values is None or found.values.dtype.kind not in "iu":
            return None
        return tuple(int(each) for each in found.values.ravel().tolist())

    def axis(self, value: int, rank: int) -> int:
        """Return an axis counted from the front."""
        if not -rank <= value < rank:
            raise self.refuse(f"has the axis {value}")
        return value % rank


def broadcast(*shapes: Shape) -> Shape:
    """Return the shape that tensors are repeated to, the larger size where they do not fit."""
    rank = max(map(len, shapes), default=0)
    padded = [(1,) * (rank - len(shape)) + shape for shape in shapes]
    return tuple(0 if 0 in sizes else max(sizes) for sizes in zip(*padded, strict=True))
