"""How many samples an MP4 or MOV file says that it has: FFmpeg takes memory for all of them, there or not."""

from __future__ import annotations

import re
from typing import BinaryIO

MAX_BOX_BYTES = 64 << 20
"""Of all boxes but those of media data."""
_MAX_BOXES = 1 << 16
# ISO/IEC 14496-12, 8.7.3 and 8.8.8: the number stands behind version, flags and a size in two of them.
_COUNTED = re.compile(rb"(?:stsz|stz2)........(....)|trun....(....)", re.DOTALL)


def listed_samples(file: BinaryIO, size: int) -> int | None:
    """Return how many samples the tables of a file list, wherever they stand; None if that is too much to look at.

    Args:
        file: read from its beginning, to which it is wound back.
        size: of it, in bytes.
    """
    found = at = looked_at = 0
    for _ in range(_MAX_BOXES):
        if at >= size:
            file.seek(0)
            return found
        file.seek(at)
        head = file.read(16)
        length = int.from_bytes(head[:4], "big")
        length = int.from_bytes(head[8:], "big") if length == 1 else length
        length = length if 8 <= length <= size - at else size - at  # of 0, and of nonsense: all the rest
        if head[4:8] != b"mdat":
            looked_at += length
            if looked_at > MAX_BOX_BYTES:
                return None
            file.seek(at)
            counts = (one or other for one, other in _COUNTED.findall(file.read(length)))
            found += sum(int.from_bytes(count, "big") for count in counts)
        at += length
    return None
