"""Read the wire format of protobuf, field by field: https://protobuf.dev/programming-guides/encoding/.

Where parsers could disagree (groups, tags beyond 32 bits, varints of more than 10 bytes), a file is refused. A tag may
be spelled in more bytes than it needs: parsers read that alike.
"""

from __future__ import annotations

from collections.abc import Iterator

from edgefuse.bundle.refusal import RefusedError

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
_FIXED_BYTES = {FIXED64: 8, FIXED32: 4}
_MAX_VARINT_BYTES = 10
_MIN_TAG, _MAX_TAG = 1 << 3, 2**32 - 1


def fields(data: bytes, position: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield each field of a message as (number, wire type, value of a varint or offset of the payload, its end).

    Args:
        data: the whole file.
        position: of the first byte of the message.
        end: of the message: the position after its last byte.

    Raises:
        RefusedError: the encoding is malformed.
        IndexError: the data end inside a field.
    """
    while position < end:
        tag, position = data[position], position + 1
        if tag >= 0x80:  # most are one byte, and a call costs more than the rest
            tag, position = varint(data, position - 1)
        wire = tag & 7
        value = position
        if wire == LENGTH:
            size, value = data[position], position + 1
            if size >= 0x80:
                size, value = varint(data, position)
            position = value + size
        elif wire == VARINT:
            value, position = varint(data, position)
        elif wire in _FIXED_BYTES:
            position += _FIXED_BYTES[wire]
        else:
            raise RefusedError(f"is malformed: wire type {wire} at byte {position}")
        if position > end or not _MIN_TAG <= tag <= _MAX_TAG:
            raise RefusedError(
                f"is malformed: tag {tag} with an end at byte {position} in a message that ends at {end}"
            )
        yield tag >> 3, wire, value, position


def varint(data: bytes, position: int) -> tuple[int, int]:
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
    raise RefusedError(f"is malformed: a varint of more than {_MAX_VARINT_BYTES} bytes at byte {position}")
