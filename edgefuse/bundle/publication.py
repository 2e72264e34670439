"""Put a file or a folder under its final name at once: what is seen there is whole, even after SIGKILL or a power cut.

The content is written to a hidden sibling `.<name>.<16 hex digits>.tmp`, flushed to the disk and renamed. The writer
holds a lock (flock) on its sibling, which the system drops when the process ends in whatever way; a sibling without a
lock is what a dead run left, and the next one removes it.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def publish_file(path: Path, chunks: Iterable[bytes]) -> None:
    """Write a file, replacing the one that is there, if any.

    Raises:
        OSError: it cannot be written; what was there is untouched.
    """
    with _sibling(path, folder=False) as temporary:
        _write(temporary, chunks)
        temporary.replace(path)
        _flush(path.parent)


def publish_folder(path: Path, contents: Mapping[str, bytes]) -> None:
    """Write a folder of files, replacing the folder that is there, if any.

    On Linux the old and the new folder change places in one step. Elsewhere there is a moment without either, since
    POSIX cannot replace a folder that is not empty.

    Raises:
        OSError: it cannot be written; what was there is untouched.
    """
    with _sibling(path, folder=True) as temporary:
        folders = {temporary}
        for name, data in contents.items():
            target = temporary / name
            target.parent.mkdir(parents=True, exist_ok=True)
            folders.update(p for p in target.parents if temporary in p.parents)
            _write(target, [data])
        for folder in folders:
            _flush(folder)
        _replace_folder(temporary, path)
        _flush(path.parent)


@contextmanager
def _sibling(path: Path, *, folder: bool) -> Iterator[Path]:
    """Create an empty file or folder beside a path, locked; remove it (or what took its name) in the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(path)
    lock = None
    while lock is None:
        temporary = _fresh(path)
        if folder:
            temporary.mkdir()
        else:
            temporary.touch(exist_ok=False)
        lock = _locked(temporary)
    try:
        yield temporary
    finally:
        _remove(temporary)
        os.close(lock)


def _fresh(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")


def _locked(path: Path) -> int | None:
    """Return a descriptor that holds the lock on a sibling; nothing if another process holds it or has removed it."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with suppress(BlockingIOError, FileNotFoundError):
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Between creation and lock, another run may have taken it for a dead one's and removed it.
        if os.path.samestat(os.fstat(fd), path.lstat()):
            return fd
    os.close(fd)
    return None


def _remove_stale(path: Path) -> None:
    """Remove the siblings of this path that nobody holds a lock on; leave those that belong to another user."""
    pattern = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{16}}\.tmp")
    for sibling in list(path.parent.iterdir()):
        if pattern.fullmatch(sibling.name) and not sibling.is_symlink():
            with suppress(PermissionError):
                lock = _locked(sibling)
                if lock is not None:
                    _remove(sibling)
                    os.close(lock)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _write(path: Path, chunks: Iterable[bytes]) -> None:
    with path.open("wb") as file:
        for chunk in chunks:
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())


def _flush(folder: Path) -> None:
    """Make the names in a folder durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _replace_folder(temporary: Path, path: Path) -> None:
    """Give a folder its final name; what had that name is gone or under the temporary one afterwards."""
    while True:
        try:
            temporary.rename(path)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        if _exchange(temporary, path):
            return
        # Without a lock the old folder is litter from here on, for us or for the next run to remove.
        old = _fresh(path)
        with suppress(FileNotFoundError):
            path.rename(old)
        with suppress(OSError):
            temporary.rename(path)
        if not temporary.exists():
            _remove(old)
            return


def _exchange(a: Path, b: Path) -> bool:
    """Let two names change places in one step, where the system and its file system can (Linux renameat2)."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    return bool(renameat2(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), _RENAME_EXCHANGE) == 0)
