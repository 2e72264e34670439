"""Refuse ONNX files that would make a runtime read other files (or memory), without needing the onnx package.

A tensor of an ONNX model may live in another file: ONNX Runtime resolves its path against the working directory, and a
special path even reads a memory address. A node `EPContext` names a compiled engine in another file. This module walks
the protobuf encoding along the fields of onnx.proto in which a tensor or a node can lie, and refuses both, and whatever
protobuf parsers may disagree on. The encoding: https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

from collections.abc import Iterator

from edgefuse.errors import BundleError

# Message type -> number of a field -> the message type in it, from onnx.proto (IR version 13).
_NESTED: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_OPERATOR, _ENGINE = 4, b"EPContext"
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_FIXED_BYTES = {_FIXED64: 8, _FIXED32: 4}
_MAX_VARINT_BYTES = 10
_MIN_TAG, _MAX_TAG = 1 << 3, 2**32 - 1

MAX_FIELDS = 4_000_000
"""A model of 10,000 nodes has fewer than 500,000 fields; this bounds the time that a hostile file takes."""


def refuse_external_data(name: str, data: bytes) -> None:
    """Check that a serialized ModelProto is well-formed protobuf and complete in itself; `name` is for the message.

    Raises:
        BundleError: it refers to something outside of itself, or its encoding is malformed.
    """
    try:
        _walk(data)
    except _RefusalError as refusal:
        raise BundleError(f"the ONNX file '{name}' {refusal}", fix="export the model with all data inside") from refusal
    except IndexError as error:
        raise BundleError(f"the ONNX file '{name}' is cut short inside a field") from error


class _RefusalError(Exception):
    """Why a model is refused, as the end of a sentence."""


def _walk(data: bytes) -> None:
    """Visit every field of every message in which a node or a tensor can lie."""
    pending = [("model", 0, len(data))]
    budget = MAX_FIELDS
    while pending:
        kind, begin, end = pending.pop()
        nested = _NESTED[kind]
        for number, wire, value, stop in fields(data, begin, end):
            budget -= 1
            if budget < 0:
                raise _RefusalError(f"has more than {MAX_FIELDS} fields")
            if wire == _LENGTH and number in nested:
                pending.append((nested[number], value, stop))
            elif kind == "tensor" and (number == _EXTERNAL_DATA or (number == _DATA_LOCATION and value)):
                raise _RefusalError("has a tensor whose data lies outside of the file")
            elif kind == "node" and number == _OPERATOR and data[value:stop] == _ENGINE:
                raise _RefusalError("has a node 'EPContext', which loads a compiled engine")


def fields(data: bytes, position: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield each field of a message as (number, wire type, value of a varint or offset of the payload, its end)."""
    while position < end:
        tag, position = _varint(data, position)
        wire = tag & 7
        value = position
        if wire == _LENGTH:
            size, value = _varint(data, position)
            position = value + size
        elif wire == _VARINT:
            value, position = _varint(data, position)
        elif wire in _FIXED_BYTES:
            position += _FIXED_BYTES[wire]
        else:
            raise _RefusalError(f"is malformed: wire type {wire} at byte {position}")
        if position > end or not _MIN_TAG <= tag <= _MAX_TAG:
            raise _RefusalError(
                f"is malformed: tag {tag} with an end at byte {position} in a message that ends at {end}"
            )
        yield tag >> 3, wire, value, position


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """Return the varint at a position and the position behind it."""
    byte = data[position]
    if byte < 0x80:
        return byte, position + 1
    value = byte & 0x7F
    for index in range(1, _MAX_VARINT_BYTES):
        byte = data[position + index]
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value, position + index + 1
    raise _RefusalError(f"is malformed: a varint of more than {_MAX_VARINT_BYTES} bytes at byte {position}")
