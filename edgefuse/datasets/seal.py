"""The seal of a folder: the SHA-256 of each of its files, in a list beside them that also says what the folder holds.

Whatever happened to the folder since it was sealed (a bit that flipped, half a file, the files of another folder under
this name) shows when the list is made again. It shows damage, not malice: who may write the files may write the list.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

SEAL = "SHA256SUMS"
"""The list: a line `# NAME`, then lines as `sha256sum` writes and checks them."""

Signature: TypeAlias = tuple[tuple[str, int, int, int, int], ...]
"""Path, inode, size and times of every file: while these stay the same, so does the content."""

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_MAX_LIST_BYTES = 1 << 20


class Broken(Exception):  # noqa: N818 - never reaches a user: it says why something is made anew
    """A sealed folder is not what was sealed; the message says why."""


def seal(folder: Path, name: str) -> None:
    """List the files of a folder that is complete, and leave nobody but their owner the right to change them."""
    for path in _files(folder):
        path.chmod(path.stat().st_mode & ~_OTHERS_WRITE)
    (folder / SEAL).write_bytes(_listed(folder, name))


def check(folder: Path, name: str) -> None:
    """Read all files of a sealed folder.

    Raises:
        Broken: if they are not what was sealed under this name.
    """
    with _told():
        _compare(_kept_list(folder), _listed(folder, name))


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


def _kept_list(folder: Path) -> bytes:
    with open(folder / SEAL, "rb", opener=open_unfollowed) as file:
        return file.read(_MAX_LIST_BYTES)


def _listed(folder: Path, name: str) -> bytes:
    lines = [f"# {name}", *(f"{_sha256(path)}  {path.relative_to(folder).as_posix()}" for path in _files(folder))]
    return "".join(f"{line}\n" for line in lines).encode(errors="surrogateescape")


def _files(folder: Path) -> Iterator[Path]:
    """Yield the files of a folder and of those in it, sorted, the list apart."""
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        path = Path(entry)
        if entry.is_dir(follow_symlinks=False):
            yield from _files(path)
        elif not entry.is_file(follow_symlinks=False):
            raise Broken(f"'{entry.name}' is no file")
        elif path != folder / SEAL:
            yield path


def _sha256(path: Path) -> str:
    with open(path, "rb", opener=open_unfollowed) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_unfollowed(path: str, flags: int) -> int:
    """Open a file, no link and without waiting for whoever writes into a pipe; an `opener` for `open`."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def _compare(kept: bytes, found: bytes) -> None:
    """Say what differs between two lists, if anything does."""
    if kept == found:
        return
    (first, ours), (second, theirs) = _parsed(kept), _parsed(found)
    if first != second:
        raise Broken("its list of files is damaged or belongs to another entry")
    for name in sorted(ours.keys() | theirs.keys()):
        if name not in theirs:
            raise Broken(f"'{name}' is missing")
        if name not in ours:
            raise Broken(f"'{name}' does not belong to it")
        if ours[name] != theirs[name]:
            raise Broken(f"'{name}' has another content")
    raise Broken("its list of files is damaged")


def _parsed(listed: bytes) -> tuple[str, dict[str, str]]:
    """Return the first line of a list, and its hashes by path; what is damaged is read as far as it goes."""
    first, *lines = listed.decode(errors="backslashreplace").split("\n")
    pairs = (line.partition("  ") for line in lines if line)
    return first, {name: digest for digest, _, name in pairs}
