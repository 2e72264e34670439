"""The folder form of a bundle: regular files under one folder, opened without following links."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from edgefuse.bundle.archive import read_exactly
from edgefuse.bundle.layout import MAX_BUNDLE_BYTES, MAX_FILES, MAX_PATH_SEGMENTS, check_paths, check_size
from edgefuse.errors import BundleError


class Folder:
    """An opened folder of which every entry has been looked at; the files' bytes have not.

    Files are opened relative to the folder's descriptor, segment by segment, without following symbolic links: neither
    a link in the bundle nor one that appears while it is read leads anywhere else. (The path of the folder itself may
    be a link.)

    Args:
        path: the folder. It stays open until `close`.

    Attributes:
        sizes: size in bytes by path; at most `layout.MAX_FILES` of them.
        size_bytes: of all files together.

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
