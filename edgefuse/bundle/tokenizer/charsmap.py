"""The table of a `Precompiled` normalizer: a trie over UTF-8 bytes, and the texts that its values point to.

SentencePiece's format, in base64: the trie's size in bytes, the trie (a double array of little-endian uint32, as
darts-clone writes it) and the texts, each ended by a zero byte. The library allocates what the size says, and follows
the trie wherever it leads.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Sequence

MAX_REPLACEMENT_CHARACTERS = 32
"""The longest that Unicode's compatibility forms make of one character is 18."""

_LEAF, _WIDE, _VALUE, _BLOCK = 1 << 8, 1 << 9, 1 << 31, 0xFF
_MAX_BYTES = 4 * MAX_REPLACEMENT_CHARACTERS


class CharsmapError(ValueError):
    """Why a table is not taken, as the end of a sentence."""


def longest_replacement(encoded: str) -> int:
    """Return how many characters the longest text of a table has.

    Raises:
        CharsmapError: the table is cut short, or leads out of itself.
    """
    try:
        data = base64.b64decode(encoded, validate=True)
    except ValueError as error:
        raise CharsmapError("is not base64") from error
    size = int.from_bytes(data[:4], "little")
    if not 0 < size <= len(data) - 4 or size % 4:
        raise CharsmapError(f"has a trie of {size} bytes in {len(data)} bytes")
    texts = data[4 + size :]
    try:
        texts.decode()
        values = _values(struct.unpack_from(f"<{size // 4}I", data, 4))
        return max((len(_text(texts, value)) for value in values), default=0)
    except UnicodeDecodeError as error:
        raise CharsmapError("has texts that are not UTF-8, or points into a character") from error


def _values(units: Sequence[int]) -> set[int]:
    """Return where the leaves of a trie point to, having checked that no unit of it leads out of it."""
    values: set[int] = set()
    for index, unit in enumerate(units):
        if unit & _VALUE and index:  # the first one is the root, whatever it says
            continue
        # The children of a unit lie in one block, at their label's place from this one; a leaf's value is in its place.
        base = index ^ (unit >> 10 << (8 if unit & _WIDE else 0))
        if base | _BLOCK >= len(units):
            raise CharsmapError(f"has a trie that leads from {index} to {base} of {len(units)} units")
        if unit & _LEAF:
            values.add(units[base] & ~_VALUE)
    return values


def _text(texts: bytes, begin: int) -> str:
    """Return the text that begins somewhere."""
    end = texts.find(b"\0", begin, begin + _MAX_BYTES + 1)
    end = len(texts) if end < 0 else end
    text = texts[begin:end].decode() if begin <= end <= begin + _MAX_BYTES else None
    if text is None or len(text) > MAX_REPLACEMENT_CHARACTERS:
        raise CharsmapError(f"points to byte {begin} of {len(texts)}, where no short text is")
    return text
