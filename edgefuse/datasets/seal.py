"""The seal of a folder: size and SHA-256 of each of its files, in a list beside them that also says what the folder is.

Whatever happened to the folder since it was sealed (a bit that flipped, half a file, the files of another folder under
this name) shows when its files are read again. It shows damage, not malice: who may write the files may write the list.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import msgspec

from edgefuse.files import OTHERS_WRITE, open_unfollowed
from edgefuse.typed_json import decode

SEAL = "seal.json"
"""The list."""

Signature: TypeAlias = tuple[tuple[str, int, int, int, int], ...]
"""Path, inode, size and times of every file: while these stay the same, so does the content."""

_MAX_LIST_BYTES = 1 << 20
_MAX_DEPTH = 4


class Broken(Exception):  # noqa: N818 - never reaches a user: it says why something is made anew
    """A sealed folder is not what was sealed; the message says why."""


class _Content(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    size_bytes: int
    sha256: str


class _Seal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    files: dict[str, _Content]


def seal(folder: Path, name: str) -> None:
    """List the files of a folder that is complete, and leave nobody but their owner the right to change them.

    Raises:
        ValueError: if there are more files than a list takes (some 8,000).
    """
    files = {
        path.relative_to(folder).as_posix(): _Content(path.stat().st_size, _sha256(path)) for path in _files(folder)
    }
    data = msgspec.json.encode(_Seal(name, files))
    if len(data) > _MAX_LIST_BYTES:
        raise ValueError(f"{folder} has too many files to be sealed: {len(files)}")
    (folder / SEAL).write_bytes(data)
    for path in (folder, *folder.rglob("*")):
        path.chmod(path.stat().st_mode & ~OTHERS_WRITE)


def check(folder: Path, name: str) -> None:
    """Read all files of a sealed folder.

    Raises:
        Broken: if they are not what was sealed under this name.
    """
    with _told():
        sealed = _kept(folder)
        if sealed.name != name:
            raise Broken("it is another entry")
        found = {path.relative_to(folder).as_posix(): path for path in _files(folder)}
        for file in sorted(sealed.files.keys() ^ found.keys()):
            raise Broken(f"'{file}' is missing" if file in sealed.files else f"'{file}' does not belong to it")
        for file, path in found.items():  # what is too large is not read
            if path.lstat().st_size != sealed.files[file].size_bytes:
                raise Broken(f"'{file}' has another size")
        for file, path in found.items():
            if _sha256(path) != sealed.files[file].sha256:
                raise Broken(f"'{file}' has another content")


def signature(folder: Path) -> Signature:
    """Return what tells without reading that the files of a folder are those that were read before.

    Raises:
        Broken: if there is anything but files and folders.
    """
    with _told():
        states = [(path, path.lstat()) for path in (*_files(folder), folder / SEAL)]
    return tuple((str(p), s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for p, s in states)


@contextmanager
def _told() -> Iterator[None]:
    """Make a reason of what the system refuses within the block."""
    try:
        yield
    except OSError as error:
        raise Broken(f"'{Path(error.filename).name}': {error.strerror}" if error.filename else str(error)) from error


def _kept(folder: Path) -> _Seal:
    """Return the list of a folder."""
    with open(folder / SEAL, "rb", opener=open_unfollowed) as file:
        data = file.read(_MAX_LIST_BYTES)
    try:
        return decode(data, _Seal)
    except msgspec.MsgspecError as error:
        raise Broken(f"'{SEAL}' is no list of its files") from error


def _files(folder: Path, depth: int = _MAX_DEPTH) -> Iterator[Path]:
    """Yield the files of a folder and of those in it, sorted, the list apart."""
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        path = Path(entry)
        if depth and entry.is_dir(follow_symlinks=False):
            yield from _files(path, depth - 1)
        elif not entry.is_file(follow_symlinks=False):
            raise Broken(f"'{entry.name}' is no file")
        elif depth < _MAX_DEPTH or entry.name != SEAL:
            yield path


def _sha256(path: Path) -> str:
    with open(path, "rb", opener=open_unfollowed) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
