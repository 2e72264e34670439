"""Read an ONNX file into messages, along the fields in which text, tensors, nodes and types can lie.

Payloads of tensors are not copied. The tables are those of onnx.proto (IR version 13); a test compares them with the
installed onnx package.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from edgefuse.bundle.onnx.protobuf import LENGTH, VARINT, fields, varint
from edgefuse.bundle.refusal import RefusedError

MAX_FIELDS = 1_000_000
"""A model of 10,000 nodes has fewer than 500,000 fields; this bounds the time that a hostile file takes."""

MAX_DEPTH = 48
"""Of messages in messages; protobuf's own bound is 100."""

# Message type -> number of a field -> the message type in it.
NESTED: Mapping[str, Mapping[int, str]] = MappingProxyType(
    {
        "Model": {8: "OperatorSetId", 7: "Graph", 14: "Entry", 20: "TrainingInfo", 25: "Function", 26: "Configuration"},
        "Configuration": {},
        "OperatorSetId": {},
        "Entry": {},
        "TrainingInfo": {1: "Graph", 2: "Graph", 3: "Entry", 4: "Entry"},
        "Function": {11: "Attribute", 7: "Node", 9: "OperatorSetId", 12: "ValueInfo", 14: "Entry"},
        "Graph": {
            **{1: "Node", 5: "Tensor", 15: "SparseTensor", 11: "ValueInfo", 12: "ValueInfo", 13: "ValueInfo"},
            **{14: "Annotation", 16: "Entry"},
        },
        "Annotation": {2: "Entry"},
        "Node": {5: "Attribute", 9: "Entry", 10: "Placement"},
        "Placement": {2: "Sharding"},
        "Sharding": {3: "IntIntListEntry", 4: "ShardedDim"},
        "IntIntListEntry": {},
        "ShardedDim": {2: "SimpleShardedDim"},
        "SimpleShardedDim": {},
        "Attribute": {
            **{5: "Tensor", 6: "Graph", 22: "SparseTensor", 14: "Type", 10: "Tensor", 11: "Graph"},
            **{23: "SparseTensor", 15: "Type"},
        },
        "SparseTensor": {1: "Tensor", 2: "Tensor"},
        "Tensor": {3: "Segment", 13: "Entry", 16: "Entry"},
        "Segment": {},
        "ValueInfo": {2: "Type", 4: "Entry"},
        "Type": {1: "TensorType", 4: "ListType", 5: "MapType", 9: "ListType", 8: "TensorType", 7: "Opaque"},
        "TensorType": {2: "Shape"},
        "ListType": {1: "Type"},
        "MapType": {2: "Type"},
        "Opaque": {},
        "Shape": {1: "Dimension"},
        "Dimension": {},
    }
)
# Message type -> the fields that hold one message: parsers merge two of them, which is refused.
SINGLE: Mapping[str, frozenset[int]] = MappingProxyType(
    {
        kind: frozenset(numbers)
        for kind, numbers in {
            "Model": (7,),
            "TrainingInfo": (1, 2),
            "Attribute": (5, 6, 14, 22),
            "SparseTensor": (1, 2),
            "Tensor": (3,),
            "ValueInfo": (2,),
            "Type": (1, 4, 5, 7, 8, 9),
            "TensorType": (2,),
            "ListType": (1,),
            "MapType": (2,),
        }.items()
    }
)
# Message type -> the fields that are text, which onnx.proto leaves unchecked.
TEXT: Mapping[str, frozenset[int]] = MappingProxyType(
    {
        kind: frozenset(numbers)
        for kind, numbers in {
            "Model": (2, 3, 4, 6),
            "Configuration": (1, 3),
            "OperatorSetId": (1,),
            "Entry": (1, 2),
            "Function": (1, 4, 5, 6, 8, 10, 13),
            "Graph": (2, 10),
            "Annotation": (1,),
            "Node": (1, 2, 3, 4, 6, 7, 8),
            "Placement": (1,),
            "Sharding": (1,),
            "SimpleShardedDim": (2,),
            "Attribute": (1, 13, 21),
            "Tensor": (8, 12),
            "ValueInfo": (1, 3),
            "Type": (6,),
            "Opaque": (1, 2),
            "Dimension": (2, 3),
        }.items()
    }
)
_NOTHING: frozenset[int] = frozenset()


class Message:
    """A message: what lies in it by number of field, as messages, text, integers, or spans of bytes."""

    __slots__ = ("_fields",)

    def __init__(self, fields: dict[int, list[Any]]) -> None:
        self._fields = fields

    def all(self, number: int) -> list[Message]:
        """Return the messages in a field."""
        return [each for each in self._fields.get(number, ()) if isinstance(each, Message)]

    def texts(self, number: int) -> list[str]:
        """Return the texts in a field."""
        return [each for each in self._fields.get(number, ()) if isinstance(each, str)]

    def text(self, number: int) -> str:
        """Return a text, the last if there are many, empty where there is none."""
        return (self.texts(number) or [""])[-1]

    def integers(self, number: int) -> list[int]:
        """Return the integers in a field that are not packed, as the unsigned 64 bits of the file."""
        return [each for each in self._fields.get(number, ()) if isinstance(each, int)]

    def integer(self, number: int) -> int:
        """Return an integer, the last if there are many, 0 where there is none."""
        return (self.integers(number) or [0])[-1]

    def spans(self, number: int) -> list[tuple[int, int]]:
        """Return where the bytes of a field begin and end."""
        return [each for each in self._fields.get(number, ()) if isinstance(each, tuple)]

    def signed(self, data: bytes, number: int, most: int) -> tuple[int, ...]:
        """Return a list of integers of 64 bits with their signs, whether they are packed or not.

        Args:
            data: the whole file.
            number: of the field.
            most: integers that it may have.
        """
        found = self.integers(number)
        for begin, end in self.spans(number):
            position = begin
            while position < end and len(found) <= most:
                value, position = varint(data, position)
                found.append(value)
        if len(found) > most:
            raise RefusedError(f"has a list of more than {most} integers")
        return tuple(value - 2**64 if value >= 2**63 else value for value in found)


def read(data: bytes) -> Message:
    """Return the ModelProto in the data, or raise `RefusedError`."""
    try:
        return _Reader(data).message("Model", 0, len(data), 0)
    except IndexError as error:
        raise RefusedError("is cut short inside a field") from error


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._left = MAX_FIELDS

    def message(self, kind: str, begin: int, end: int, depth: int) -> Message:
        """Return a message with all that lies in it."""
        if depth > MAX_DEPTH:
            raise RefusedError(f"has more than {MAX_DEPTH} messages in messages")
        found: dict[int, list[Any]] = {}
        nested, text, single = NESTED[kind], TEXT.get(kind, _NOTHING), SINGLE.get(kind, _NOTHING)
        for number, wire, value, stop in fields(self._data, begin, end):
            self._left -= 1
            if self._left < 0:
                raise RefusedError(f"has more than {MAX_FIELDS} fields")
            each: Message | str | int | tuple[int, int] = (value, stop)
            if wire == VARINT:
                each = value
            elif wire == LENGTH and number in nested:
                if number in single and number in found:
                    raise RefusedError(f"has two messages in a {kind} that holds one")
                each = self.message(nested[number], value, stop, depth + 1)
            elif wire == LENGTH and number in text:
                each = self._text(value, stop)
            found.setdefault(number, []).append(each)
        return Message(found)

    def _text(self, begin: int, end: int) -> str:
        try:
            return self._data[begin:end].decode()
        except UnicodeDecodeError as error:
            raise RefusedError(f"has a name at byte {begin} that is not UTF-8") from error
