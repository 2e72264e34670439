"""Files that others may have put there: opened without waiting, read within a bound; and where a user has caches."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
"""The permissions that let others than the owner change a file or folder."""

KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
}
"""What a path may lead to besides a file, by the format bits of its mode."""


def reason(error: Exception) -> str:
    """Return why the system refused something, without the number and the path that Python adds."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def users_cache() -> Path | None:
    """Return the folder of this user's caches: `$XDG_CACHE_HOME`, or `~/.cache`; None for a user without a home.

    A relative `XDG_CACHE_HOME` is ignored, as its specification says.
    """
    chosen = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        return chosen if chosen.is_absolute() else Path.home() / ".cache"
    except RuntimeError:  # such as one that a container knows by number alone
        return None


def open_unfollowed(path: str, flags: int) -> int:
    """Open a file, no link and without waiting for whoever writes into a pipe; an `opener` for `open`."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def read_regular(path: Path, limit: int) -> bytes:
    """Return the content of a regular file.

    Args:
        path: of the file, or of a link to it.
        limit: in bytes.

    Raises:
        OSError: if there is none, it cannot be read, is something else than a file, or longer.
    """
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0))) as file:
        _require_regular(os.fstat(file.fileno()).st_mode, path)
        data = file.read(limit + 1)
    if len(data) > limit:
        raise OSError(errno.EFBIG, f"it is larger than {limit} bytes", str(path))
    return data


def check_regular(path: Path) -> None:
    """Refuse what is no regular file, before a library opens it.

    Raises:
        OSError: if there is none, or it is something else.
    """
    _require_regular(path.stat().st_mode, path)


def _require_regular(mode: int, path: Path) -> None:
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, f"it is {KINDS.get(stat.S_IFMT(mode), 'no file')}", str(path))
