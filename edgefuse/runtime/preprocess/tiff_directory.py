"""How many numbers a tag of a TIFF file lists, found before Pillow makes Python objects of all of them."""

from __future__ import annotations

from collections.abc import Iterator
from struct import calcsize, unpack_from

# As Pillow takes them: byte orders are those of the first two bytes, also where the next two are turned.
_ORDERS = {b"II*\0": "<", b"II\0*": "<", b"II+\0": "<", b"MM\0*": ">", b"MM*\0": ">", b"MM\0+": ">"}
_BYTES, _TEXT, _UNDEFINED = 1, 2, 7  # which stay bytes


def longest_list(data: bytes) -> int:
    """Return the length of the longest list of numbers in the first directory; 0 where there is none, or no TIFF."""
    order = _ORDERS.get(data[:4])
    if order is None or len(data) < 16:
        return 0
    # Offsets of 64 bits have another mark, which Pillow overlooks in the second order: there it may read either way.
    ways = {b"+\0": (True,), b"\0+": (False, True)}.get(data[2:4], (False,))
    return max((count for wide in ways for count in _lists(data, order, wide)), default=0)


def _lists(data: bytes, order: str, wide: bool) -> Iterator[int]:
    """Yield how many numbers each tag lists, up to where the file ends."""
    (place,) = unpack_from(order + ("Q" if wide else "L"), data, 8 if wide else 4)
    number, entry = order + ("Q" if wide else "H"), order + ("HHQ8s" if wide else "HHL4s")
    if place + calcsize(number) > len(data):
        return
    (tags,) = unpack_from(number, data, place)
    place += calcsize(number)
    for begin in range(place, min(place + tags * calcsize(entry), len(data) - calcsize(entry) + 1), calcsize(entry)):
        _, kind, count, _ = unpack_from(entry, data, begin)
        if kind not in (_BYTES, _TEXT, _UNDEFINED):
            yield count
