"""Read a FlatBuffer whose bytes may lie: every offset, length and alignment is checked before it is followed.

The encoding: https://flatbuffers.dev/internals/. A table is a signed offset to its list of field offsets (the vtable)
and the fields themselves; a string or vector is a length and its elements. Offsets only ever point forwards (but for
vtables), so nothing can refer to itself; how much is read in all is bounded, since many offsets may name one thing.
"""

from __future__ import annotations

import struct
from typing import TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from edgefuse.bundle.refusal import RefusedError

Kind: TypeAlias = str
"""A scalar's type, as `struct` spells it: `b B h H i I q Q f ?`."""

_Number = TypeVar("_Number", bound=np.generic)

MAX_READS = 500_000
"""Of tables, 64 characters or numbers of an array, or a number of a list behind its fourth.

A file of 10,000 operators has fewer than 200,000 of them.
"""

_PER_READ = 64
_UNCOUNTED = 4  # of the numbers of a list: what most shapes and operators have
_WIDTHS = {kind: struct.calcsize(f"<{kind}") for kind in "bBhHiIqQf?"}
_SCALARS = {kind: struct.Struct(f"<{kind}").unpack_from for kind in _WIDTHS}
_OFFSET_BYTES = 4
_WORD = _SCALARS["I"]
_SIGNED = _SCALARS["i"]


class Buffer:
    """The bytes of a file, and how much of it may still be read."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.size = len(data)
        self._left = MAX_READS

    def root(self, identifier: bytes) -> Table:
        """Return the table that a file of this kind begins with."""
        if self.size < 2 * _OFFSET_BYTES or self.data[_OFFSET_BYTES : 2 * _OFFSET_BYTES] != identifier:
            raise RefusedError(f"does not begin as a file of the kind {identifier.decode()} does")
        return self.table(self.follow(0))

    def table(self, position: int) -> Table:
        """Return the table at a position."""
        self.spend(1)
        return Table(self, position)

    def spend(self, reads: int) -> None:
        """Count what was read, so that a file whose offsets all name one thing ends, too."""
        self._left -= reads
        if self._left < 0:
            raise RefusedError(f"has more than {MAX_READS} tables, or lists as long")

    def follow(self, position: int) -> int:
        """Return where an offset leads; whoever reads there checks what it reads."""
        target: int = position + _WORD(self.data, position)[0]
        if target == position or target % _OFFSET_BYTES or target > self.size - _OFFSET_BYTES:
            raise RefusedError(f"is malformed: the offset at byte {position} leads to byte {target} of {self.size}")
        return target

    def vector(self, position: int, width: int) -> tuple[int, int]:
        """Return where the elements of a vector begin, and how many there are."""
        length: int = _WORD(self.data, position)[0]
        begin = position + _OFFSET_BYTES
        if length * width > self.size - begin or (length and begin % width):
            raise RefusedError(f"is malformed: {length} elements of {width} bytes at byte {begin} of {self.size}")
        return begin, length


class Table:
    """A table; fields are asked for by their number in the schema, and are absent or checked."""

    __slots__ = ("_buffer", "_end", "_fields", "position")

    def __init__(self, buffer: Buffer, position: int) -> None:
        data = buffer.data
        vtable = position - _SIGNED(data, position)[0]
        if vtable % 2 or not 0 <= vtable <= buffer.size - 4:
            raise RefusedError(f"is malformed: the table at byte {position} has its fields listed at byte {vtable}")
        listed, size = struct.unpack_from("<HH", data, vtable)
        if listed < 4 or listed % 2 or vtable + listed > buffer.size or size < 4 or position + size > buffer.size:
            raise RefusedError(f"is malformed: the table at byte {position} does not lie within the file")
        self._buffer = buffer
        self._end = size
        self._fields = struct.unpack_from(f"<{listed // 2 - 2}H", data, vtable + 4)
        self.position = position

    def scalar(self, number: int, kind: Kind, default: float = 0) -> float:
        """Return a number, or what the schema says where it is absent.

        Args:
            number: of the field.
            kind: of the number, as `struct` spells it.
            default: of the schema.
        """
        position = self._field(number, _WIDTHS[kind])
        if position is None:
            return default
        value: float = _SCALARS[kind](self._buffer.data, position)[0]
        return value

    def integer(self, number: int, kind: Kind, default: int = 0) -> int:
        """Return an integer, or what the schema says where it is absent.

        Args:
            number: of the field.
            kind: of the number, as `struct` spells it.
            default: of the schema.
        """
        return int(self.scalar(number, kind, default))

    def has(self, number: int) -> bool:
        """Tell whether a field is there at all."""
        return number < len(self._fields) and self._fields[number] != 0

    def table(self, number: int) -> Table | None:
        """Return a table within this one, None where it is absent."""
        target = self._target(number)
        return None if target is None else self._buffer.table(target)

    def tables(self, number: int, most: int) -> list[Table]:
        """Return the tables of a vector, none where it is absent."""
        target = self._target(number)
        if target is None:
            return []
        begin, length = self._buffer.vector(target, _OFFSET_BYTES)
        if length > most:
            raise RefusedError(f"has {length} tables in one list, where {most} are the most")
        buffer = self._buffer
        return [buffer.table(buffer.follow(begin + _OFFSET_BYTES * index)) for index in range(length)]

    def numbers(self, number: int, kind: type[_Number]) -> npt.NDArray[_Number] | None:
        """Return the numbers of a vector as an array that is not copied, None where it is absent."""
        dtype = np.dtype(kind).newbyteorder("<")
        span = self.span(number, dtype.itemsize)
        if span is None:
            return None
        begin, length = span
        self._buffer.spend(length // _PER_READ)
        return np.frombuffer(memoryview(self._buffer.data)[begin : begin + length * dtype.itemsize], dtype)

    def integers(self, number: int, most: int, kind: Kind = "i") -> tuple[int, ...]:
        """Return the integers of a short vector, none where it is absent.

        Args:
            number: of the field.
            most: integers that it may have.
            kind: of each, as `struct` spells it.
        """
        span = self.span(number, _WIDTHS[kind])
        if span is None:
            return ()
        begin, length = span
        if length > most:
            raise RefusedError(f"has {length} numbers in a list, where {most} are the most")
        self._buffer.spend(max(0, length - _UNCOUNTED))
        return struct.unpack_from(f"<{length}{kind}", self._buffer.data, begin)

    def span(self, number: int, width: int = 1) -> tuple[int, int] | None:
        """Return where a vector's elements begin and how many there are, None where it is absent."""
        target = self._target(number)
        return None if target is None else self._buffer.vector(target, width)

    def text(self, number: int) -> str | None:
        """Return a string, None where it is absent."""
        span = self.span(number)
        if span is None:
            return None
        begin, length = span
        end = begin + length
        self._buffer.spend(length // _PER_READ)
        if end >= self._buffer.size or self._buffer.data[end]:
            raise RefusedError(f"is malformed: the string at byte {begin} has no end")
        try:
            text = self._buffer.data[begin:end].decode()
        except UnicodeDecodeError as error:
            raise RefusedError(f"has a name at byte {begin} that is not UTF-8") from error
        if "\0" in text:
            raise RefusedError(f"has a name at byte {begin} with a zero in it")
        return text

    def _field(self, number: int, width: int) -> int | None:
        """Return the position of a field of a width, None where it is absent."""
        if number >= len(self._fields) or not self._fields[number]:
            return None
        offset = self._fields[number]
        position: int = self.position + offset
        if offset < _OFFSET_BYTES or offset + width > self._end or position % width:
            raise RefusedError(f"is malformed: field {number} of the table at byte {self.position}")
        return position

    def _target(self, number: int) -> int | None:
        position = self._field(number, _OFFSET_BYTES)
        return None if position is None else self._buffer.follow(position)
