"""A sound file as libsndfile is to see it: with true lengths where a stream's writer could not know them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from os import SEEK_CUR, SEEK_END, SEEK_SET
from struct import calcsize, pack, unpack, unpack_from
from typing import BinaryIO, Literal

_MAX_CHUNKS = 1_000
_MAX_READS = 1 << 18  # each costs a call into Python: for hostile chunks without end, that is a second
_UNKNOWN = 0xFFFFFFFF

# An MPEG stream is known by a tag before its first frame; without a file's name, libsndfile takes it for nothing else.
_MPEG_TAG = b"ID3\x03\0\0\0\0\0\x0a" + bytes(10)
_W64_RIFF = bytes.fromhex("726966662e91cf11a5d628db04c10000")


class SoundStream:
    """A file that may be read and sought in, as `soundfile` asks of one; it never raises, since its callers are in C.

    Args:
        file: what is read.
        size: of the file, in bytes.
    """

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        head = self._bytes(0, 64)
        self._before = _MPEG_TAG if _is_mpeg(head) and head[:3] != b"ID3" else b""
        self._edits = true_lengths(head, size, self._bytes)
        self._size = size + len(self._before)
        self._position = 0
        self._reads = 0

    @property
    def known(self) -> bool:
        """Whether the file is of a format that we have libsndfile open."""
        head = self._bytes(0, 64)
        if head[:3] != b"ID3":
            return _is_known(head)
        tag = 10 + sum((byte & 0x7F) << 7 * power for power, byte in enumerate(reversed(head[6:10])))
        inside = self._bytes(tag, 64)  # a tag may stand before other formats, or have padding behind it
        return _is_known(inside) or inside[:4] in (b"", bytes(4))

    def readinto(self, buffer: memoryview) -> int:
        """Fill a buffer as far as the file goes, and say how far that was."""
        self._reads += 1
        if self._reads > _MAX_READS:
            return 0
        begin, wanted = self._position, len(buffer)
        data = self._before[begin : begin + wanted]
        inside = begin + len(data) - len(self._before)
        data += self._edited(inside, self._bytes(inside, wanted - len(data)))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = SEEK_SET) -> int:
        """Move, or stay where that is impossible."""
        target = {SEEK_SET: 0, SEEK_CUR: self._position, SEEK_END: self._size}[whence] + offset
        if 0 <= target < 1 << 62:
            self._position = target
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def read(self, size: int = -1) -> bytes:
        """Return the bytes from here on."""
        buffer = bytearray(max(0, self._size - self._position if size < 0 else size))
        return bytes(buffer[: self.readinto(memoryview(buffer))])

    def _bytes(self, begin: int, size: int) -> bytes:
        try:
            self._file.seek(begin)
            return self._file.read(size)
        except (OSError, ValueError, OverflowError):
            return b""  # as if it ended here

    def _edited(self, begin: int, data: bytes) -> bytes:
        for offset, new in self._edits.items():
            first, last = max(offset, begin), min(offset + len(new), begin + len(data))
            if first < last:
                data = data[: first - begin] + new[first - offset : last - offset] + data[last - begin :]
        return data


def true_lengths(head: bytes, size: int, read: Callable[[int, int], bytes]) -> dict[int, bytes]:
    """Return what to write where, so that sound whose length its header does not know is read to its end.

    A recorder that writes into a pipe cannot come back to its header: it leaves 0, all ones or a guess there. Where 0
    is followed by whole chunks to the end of the file, 0 is meant.

    Args:
        head: the first 64 bytes.
        size: of the file.
        read: returns the bytes at a position.
    """
    if head[:4] in (b"RIFF", b"RIFX", b"RF64", b"FORM"):
        return _in_chunks(head, size, read)
    if head[:4] in (b".snd", b"dns.") and len(head) >= 12:
        order: Literal["<", ">"] = ">" if head[:4] == b".snd" else "<"
        offset, declared = unpack_from(order + "II", head, 4)
        rest = size - offset
        return {8: pack(order + "I", _UNKNOWN)} if rest > 0 and (declared == 0 or declared > rest) else {}
    if head[:4] == b"caff":
        return _in_long_chunks(size, read, 8, ">4sq", 12)
    return _in_long_chunks(size, read, 40, "<16sQ", 0) if head[:16] == _W64_RIFF else {}


def _in_chunks(head: bytes, size: int, read: Callable[[int, int], bytes]) -> dict[int, bytes]:
    """As `true_lengths`, for WAV and its wide sibling RF64, and for AIFF."""
    order: Literal["<", ">"] = "<" if head[:4] in (b"RIFF", b"RF64") else ">"
    data, inside = (b"SSND", 8) if head[:4] == b"FORM" else (b"data", 0)  # bytes of a chunk that are no sound
    wide = None
    for position, name, length in _chunks(read, 12, order):
        begin = position + 8
        if name == b"ds64" and head[:4] == b"RF64":
            wide = begin + 8
        elif name == data:
            rest = size - begin
            declared = _number(read(wide, 8)) if wide else length
            empty = declared in (0, inside)
            if rest <= inside or (empty and _are_chunks(read, begin + declared, size, order)):
                return {}
            if wide:
                return {wide: pack("<Q", rest)} if empty or declared > rest else {}
            return {position + 4: pack(order + "I", min(rest, _UNKNOWN - 1))} if empty else {}
    return {}


def _in_long_chunks(
    size: int, read: Callable[[int, int], bytes], position: int, form: str, header: int
) -> dict[int, bytes]:
    """As `true_lengths`, for CAF and W64: lengths are of 64 bits, and leave out `header` bytes of the chunk's own."""
    for _ in range(_MAX_CHUNKS):
        raw = read(position, calcsize(form))
        if len(raw) < calcsize(form):
            break
        name, length = unpack(form, raw)
        rest = size - position - header
        if name[:4] == b"data":
            unknown = length < 0 or (form[-1] == "Q" and length > rest)
            return {position + len(name): pack(form[0] + form[-1], rest)} if unknown else {}
        if length < calcsize(form) - header:
            break
        position += header + length + (-length % 8 if form[-1] == "Q" else 0)
    return {}


def _chunks(
    read: Callable[[int, int], bytes], position: int, order: Literal["<", ">"]
) -> Iterator[tuple[int, bytes, int]]:
    """Yield position, name and length of the chunks of an IFF file."""
    for _ in range(_MAX_CHUNKS):
        header = read(position, 8)
        if len(header) < 8:
            return
        name, length = unpack(order + "4sI", header)
        yield position, name, length
        position += 8 + length + length % 2


def _are_chunks(read: Callable[[int, int], bytes], begin: int, size: int, order: Literal["<", ">"]) -> bool:
    """Whether there are whole chunks, and nothing else, up to the end of the file."""
    for position, name, length in _chunks(read, begin, order):
        end = position + 8 + length
        if end > size or not all(0x20 <= byte < 0x7F for byte in name):
            return False
        if end + length % 2 >= size:
            return True
    return False


def _number(raw: bytes) -> int:
    return int.from_bytes(raw, "little")


def _is_known(head: bytes) -> bool:
    """Whether a file that begins so is of a format that we have libsndfile open.

    It knows many more, out of samplers and laboratories. Some of those decoders write to stdout when a file is damaged,
    and so does the one for ALAC; for the sake of the others, nobody has looked closely at any of them for long.
    """
    if head[:4] in (b"RIFF", b"RIFX", b"RF64"):
        return head[8:12] == b"WAVE"
    if head[:4] == b"FORM":
        return head[8:12] in (b"AIFF", b"AIFC")
    if head[:4] == b"caff":
        return head[28:32] != b"alac"
    return head[:4] in (b"fLaC", b"OggS", b".snd", b"dns.") or head[:16] == _W64_RIFF or _is_mpeg(head)


def _is_mpeg(head: bytes) -> bool:
    """Whether a file that begins so may be an MP3."""
    return head[:3] == b"ID3" or (len(head) > 1 and head[0] == 0xFF and head[1] >= 0xE0)
