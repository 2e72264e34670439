"""The two containers of a bundle: a folder, and a single file, both read strictly.

The file is a zip with stored members only. Python's `zipfile` trusts the central directory alone and accepts prefixed
data, overlapping members and several end records, so two readers may see two bundles in one file. Only archives with
one reading are accepted here: members tile the file from its first byte, then come the central directory and the end
record, and each local header agrees with its entry. The format is section 4 of PKWARE's APPNOTE.TXT 6.3.10.
"""

from __future__ import annotations

import os
import stat
import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from edgefuse.bundle.layout import (
    MAX_BUNDLE_BYTES,
    MAX_FILES,
    MAX_PATH_CHARACTERS,
    MAX_PATH_SEGMENTS,
    check_path,
    check_paths,
    check_size,
)
from edgefuse.errors import BundleError

_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_LOCAL_SIGNATURE, _CENTRAL_SIGNATURE, _END_SIGNATURE = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"

_VERSION = 20
_UNIX = 3 << 8
_DATE_1980_01_01 = 1 << 5 | 1
_REGULAR_0644 = (stat.S_IFREG | 0o644) << 16
_FLAG_ENCRYPTED, _FLAG_DESCRIPTOR, _FLAG_UTF8 = 1 << 0, 1 << 3, 1 << 11
_DOS_FOLDER_OR_LABEL = 0x18
_ZIP64_16, _ZIP64_32 = 0xFFFF, 0xFFFFFFFF


class _Entry(NamedTuple):
    """A fixed part of the central directory, in the order of the format."""

    signature: bytes
    made_by: int
    needed: int
    flags: int
    method: int
    time: int
    date: int
    crc: int
    compressed_bytes: int
    size_bytes: int
    name_bytes: int
    extra_bytes: int
    comment_bytes: int
    disk: int
    internal: int
    external: int
    offset: int

    @property
    def shared(self) -> tuple[int, ...]:
        """The fields that the local header repeats, in its order."""
        return (*self[2:11], self.extra_bytes)


class _Member(NamedTuple):
    name: str
    entry: _Entry

    @property
    def data_offset(self) -> int:
        return self.entry.offset + _LOCAL.size + self.entry.name_bytes

    @property
    def end(self) -> int:
        return self.data_offset + self.entry.size_bytes


def pack(contents: Mapping[str, bytes]) -> Iterator[bytes]:
    """Yield the bytes of an archive, the same for the same contents: sorted, dated 1980-01-01, mode 0644."""
    directory: list[bytes] = []
    offset = 0
    for name, data in sorted(contents.items()):
        encoded = name.encode("ascii")
        shared = (_VERSION, 0, 0, 0, _DATE_1980_01_01, zlib.crc32(data), len(data), len(data), len(encoded), 0)
        yield _LOCAL.pack(_LOCAL_SIGNATURE, *shared) + encoded
        yield data
        entry = _CENTRAL.pack(_CENTRAL_SIGNATURE, _UNIX | _VERSION, *shared, 0, 0, 0, _REGULAR_0644, offset)
        directory.append(entry + encoded)
        offset += _LOCAL.size + len(encoded) + len(data)
    yield b"".join(directory)
    count = len(directory)
    yield _END.pack(_END_SIGNATURE, 0, 0, count, count, sum(map(len, directory)), offset, 0)


class Archive:
    """An opened archive whose structure has been checked; its members' bytes have not.

    The file stays open until `close`, so replacing it does not disturb a reader. `sizes` has the bytes of each member.

    Raises:
        BundleError: the file is not an archive with exactly one reading.
        OSError: it cannot be opened or read.
    """

    def __init__(self, path: Path) -> None:
        # Without O_NONBLOCK, opening a named pipe would wait for a writer.
        self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            self.size_bytes = _regular_size(self._fd)
            members = _read_directory(self._fd, self.size_bytes)
            for member in members:
                _check_local_header(self._fd, member)
        except BaseException:
            self.close()
            raise
        self._offsets = {member.name: member.data_offset for member in members}
        self.sizes = {member.name: member.entry.size_bytes for member in members}

    def read(self, name: str) -> bytes:
        """Return the bytes of a member, or raise `BundleError` if the file has become shorter."""
        return read_exactly(self._fd, self.sizes[name], self._offsets[name], name)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


def read_exactly(fd: int, size_bytes: int, offset: int, name: str) -> bytes:
    """Return `size_bytes` bytes of a file from an offset on, or raise `BundleError` if it ends before.

    Args:
        fd: of the open file.
        size_bytes: to read.
        offset: of the first byte, in bytes.
        name: the file's, for the message.
    """
    chunks: list[bytes] = []
    missing = size_bytes
    while missing:
        chunk = os.pread(fd, missing, offset + size_bytes - missing)
        if not chunk:
            raise BundleError(
                f"'{name}' is cut short", got=f"{size_bytes - missing} bytes", expected=f"{size_bytes} bytes"
            )
        chunks.append(chunk)
        missing -= len(chunk)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _regular_size(fd: int) -> int:
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise BundleError("this is neither a regular file nor a folder")
    if status.st_size > MAX_BUNDLE_BYTES:
        raise BundleError(
            "the archive is too large", got=f"{status.st_size} bytes", expected=f"at most {MAX_BUNDLE_BYTES}"
        )
    if status.st_size < _END.size:
        raise BundleError("this is not a bundle", got=f"a file of {status.st_size} bytes", expected="a zip archive")
    return status.st_size


def _read_directory(fd: int, archive_bytes: int) -> list[_Member]:
    """Return the members in order of their place in the file, having checked that they tile it."""
    end_offset = archive_bytes - _END.size
    end = _END.unpack(read_exactly(fd, _END.size, end_offset, "the end record"))
    signature, disk, first_disk, count_here, count, directory_bytes, directory_offset, comment_bytes = end
    if signature != _END_SIGNATURE or comment_bytes:
        raise BundleError(
            "the file does not end with the end record of a zip archive without a comment",
            fix="it is cut short, has something appended, or is no bundle: copy it again",
        )
    if count == _ZIP64_16 or _ZIP64_32 in (directory_bytes, directory_offset):
        raise BundleError("the archive uses ZIP64", expected="a plain zip archive")
    if disk or first_disk or count_here != count:
        raise BundleError("the archive spans several disks", expected="one file")
    if count > MAX_FILES:
        raise BundleError("there are too many files", got=count, expected=f"at most {MAX_FILES}")
    if directory_offset + directory_bytes != end_offset:
        raise BundleError(
            "the central directory does not end at the end record",
            got=f"an end at byte {directory_offset + directory_bytes}",
            expected=f"byte {end_offset}",
        )
    if directory_bytes > count * (_CENTRAL.size + MAX_PATH_CHARACTERS):
        raise BundleError("the central directory is too large for its entries", got=f"{directory_bytes} bytes")
    members = list(
        _parse_directory(read_exactly(fd, directory_bytes, directory_offset, "the central directory"), count)
    )
    check_paths([member.name for member in members])
    members.sort(key=lambda member: member.entry.offset)
    _check_tiling(members, directory_offset)
    return members


def _parse_directory(directory: bytes, count: int) -> Iterator[_Member]:
    """Yield the entries of the central directory, having checked each by itself."""
    position = 0
    for index in range(count):
        if position + _CENTRAL.size > len(directory):
            raise BundleError("the central directory is cut short", got=f"{index} entries", expected=count)
        entry = _Entry._make(_CENTRAL.unpack_from(directory, position))
        if entry.signature != _CENTRAL_SIGNATURE:
            raise BundleError(f"entry {index} of the central directory has no signature")
        position += _CENTRAL.size
        # Latin-1 maps every byte to one character, so a name that is not ASCII reaches the check of paths as it is.
        name = directory[position : position + entry.name_bytes].decode("latin-1")
        check_path(name)
        _check_entry(name, entry)
        position += entry.name_bytes
        yield _Member(name, entry)
    if position != len(directory):
        raise BundleError("there is data between the central directory and the end record")


def _check_entry(name: str, entry: _Entry) -> None:
    mode = entry.external >> 16
    rules = (
        (entry.flags & _FLAG_ENCRYPTED, "is encrypted"),
        (entry.flags & _FLAG_DESCRIPTOR, "has a data descriptor"),
        (entry.flags & ~_FLAG_UTF8, f"has unknown flags 0x{entry.flags:04x}"),
        (entry.method, f"is compressed with method {entry.method}"),
        (_ZIP64_32 in (entry.compressed_bytes, entry.size_bytes, entry.offset), "uses ZIP64"),
        (entry.compressed_bytes != entry.size_bytes, "has two different sizes"),
        (entry.extra_bytes or entry.comment_bytes, "has an extra field or a comment"),
        (entry.disk, "lies on another disk"),
        (stat.S_ISLNK(mode), "is a symbolic link"),
        (stat.S_IFMT(mode) not in (0, stat.S_IFREG), f"is not a regular file (mode {mode:o})"),
        (entry.external & _DOS_FOLDER_OR_LABEL, "is a folder or a volume label"),
    )
    for broken, reason in rules:
        if broken:
            raise BundleError(f"the archive's member '{name}' {reason}", expected="a stored regular file")
    check_size(name, entry.size_bytes)


def _check_tiling(members: list[_Member], directory_offset: int) -> None:
    position = 0
    for member in members:
        if member.entry.offset < position:
            raise BundleError(f"the archive's member '{member.name}' overlaps another one")
        if member.entry.offset > position:
            raise BundleError(f"there is data outside of members before '{member.name}'", got=f"byte {position}")
        position = member.end
    if position != directory_offset:
        raise BundleError(
            "the members do not end where the central directory begins",
            got=f"byte {position}",
            expected=f"byte {directory_offset}",
        )


def _check_local_header(fd: int, member: _Member) -> None:
    """Refuse a member whose local header says other than the central directory."""
    size = _LOCAL.size + member.entry.name_bytes
    header = read_exactly(fd, size, member.entry.offset, member.name)
    signature, *shared = _LOCAL.unpack_from(header)
    same = tuple(shared) == member.entry.shared and header[_LOCAL.size :] == member.name.encode("ascii")
    if signature != _LOCAL_SIGNATURE or not same:
        raise BundleError(f"the local header of '{member.name}' differs from the central directory")


class Folder:
    """An opened folder of which every entry has been looked at; the files' bytes have not.

    Files are opened relative to the folder's descriptor, segment by segment, without following symbolic links, so that
    a link in the bundle, or one that appears later, leads nowhere. `sizes` has the bytes of each file.

    Raises:
        BundleError: something in it is not a regular file, or there is too much of it.
        OSError: something cannot be opened or read.
    """

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.sizes: dict[str, int] = {}
        self._entries = 0
        try:
            self._scan(self._fd, "")
            check_paths(self.sizes)
            self.size_bytes = self._checked_size()
        except BaseException:
            self.close()
            raise

    def read(self, name: str) -> bytes:
        """Return the bytes of a file, or raise `BundleError` if its size is no longer what it was at the start."""
        fd = self._open(name)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode) or status.st_size != self.sizes[name]:
                raise BundleError(f"'{name}' has changed while the bundle was open")
            return read_exactly(fd, status.st_size, 0, name)
        finally:
            os.close(fd)

    def close(self) -> None:
        """Close the folder."""
        os.close(self._fd)

    def _checked_size(self) -> int:
        total = sum(self.sizes.values())
        if total > MAX_BUNDLE_BYTES:
            raise BundleError("the files are too large", got=f"{total} bytes", expected=f"at most {MAX_BUNDLE_BYTES}")
        return total

    def _scan(self, folder_fd: int, prefix: str) -> None:
        """Note the files of a folder and of those under it; `prefix` is empty or ends with a slash."""
        if prefix.count("/") >= MAX_PATH_SEGMENTS:
            raise BundleError(f"the folder '{prefix}' is too deep", expected=f"at most {MAX_PATH_SEGMENTS} levels")
        with os.scandir(folder_fd) as entries:
            for entry in entries:
                self._entries += 1
                if self._entries > MAX_FILES + MAX_PATH_SEGMENTS:
                    raise BundleError("there are too many files", expected=f"at most {MAX_FILES}")
                self._note(entry, folder_fd, prefix)

    def _note(self, entry: os.DirEntry[str], folder_fd: int, prefix: str) -> None:
        path = prefix + entry.name
        status = entry.stat(follow_symlinks=False)
        if stat.S_ISREG(status.st_mode):
            check_size(path, status.st_size)
            self.sizes[path] = status.st_size
        elif stat.S_ISDIR(status.st_mode):
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(entry.name, flags, dir_fd=folder_fd)
            try:
                self._scan(fd, path + "/")
            finally:
                os.close(fd)
        else:
            kind = "a symbolic link" if stat.S_ISLNK(status.st_mode) else "not a regular file"
            raise BundleError(f"{path!a} is {kind}", expected="regular files and folders alone")

    def _open(self, name: str) -> int:
        """Open a file segment by segment, following no link."""
        *folders, last = name.split("/")
        fd = os.dup(self._fd)
        for segment, kind in [*((folder, os.O_DIRECTORY) for folder in folders), (last, os.O_NONBLOCK)]:
            try:
                inner = os.open(segment, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | kind, dir_fd=fd)
            finally:
                os.close(fd)
            fd = inner
        return fd
