"""The cache on disk: entries by key, each of them there whole or made anew.

A cache is shared by concurrent compiles and safe against a kill. An entry is a folder named by the SHA-256 of its key,
made in a temporary folder under a lock, sealed with the hashes of its files and then renamed. An entry whose files are
not those that were sealed counts as missing: it is said once, and the entry is made anew.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec
from filelock import FileLock

from edgefuse.datasets import seal
from edgefuse.datasets.seal import Broken, Signature
from edgefuse.errors import CacheError
from edgefuse.files import OTHERS_WRITE, users_cache
from edgefuse.typed_json import decode

__all__ = ["Cache", "cache_folder", "digest", "open_cache", "put"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

_MODE = 0o755  # nobody else writes here, whatever the umask says
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})
_ANOTHER = "name another folder with --cache or EDGEFUSE_CACHE"

_REMEMBERED_BYTES = 1 << 20
"""Entries up to this size are read whenever they are asked for; larger ones only if their signature has changed."""
_SETTLED_SECONDS = 0.1
"""How old a file must be for its times to tell about the next change: clocks of file systems tick in milliseconds."""
_whole: dict[Path, Signature] = {}
"""Large entries that this process has read and found whole."""


def cache_folder() -> Path:
    """Return the cache folder: `EDGEFUSE_CACHE`, else `edgefuse` under `XDG_CACHE_HOME` or `~/.cache`.

    It is absolute, since workers and tools stand elsewhere.

    Raises:
        CacheError: none of them is set, and this user has no home, such as one that a container knows by number alone.
    """
    if chosen := os.environ.get("EDGEFUSE_CACHE"):
        return Path(chosen).absolute()
    if (base := users_cache()) is None:
        raise CacheError("there is no folder for the cache", got="a user without a home", fix=_ANOTHER)
    return base / "edgefuse"


def digest(key: object) -> str:
    """Return the SHA-256 of a key made of structs, dicts, lists, strings and numbers."""
    return hashlib.sha256(msgspec.json.encode(key, order="sorted")).hexdigest()


def open_cache(folder: Path) -> Cache:
    """Return the cache in a folder, which is made if need be; warn if others can write to it.

    Raises:
        CacheError: if it is no folder, or cannot be made.
    """
    try:
        cache = Cache(folder.resolve())  # workers may stand in another folder
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: a loop of links, before Python 3.13
        raise CacheError(f"the cache {folder} cannot be used", got=str(error), fix=_ANOTHER) from error
    with cache.usable():
        cache.folder.mkdir(mode=_MODE, parents=True, exist_ok=True)
        places = [cache.folder, *sorted(Path(entry) for entry in os.scandir(cache.folder) if entry.is_dir())]
        open_to_others = [(place, state) for place in places if not _trusted(state := place.stat())]
    for place, state in open_to_others[:1]:
        logger.warning(
            "others can write to %s (user %d, %s) in the cache, which decides what goes into bundles. "
            "Fix: chown -R and chmod -R go-w %s, or %s.",
            *(place, state.st_uid, stat.filemode(state.st_mode), cache.folder, _ANOTHER),
        )
    return cache


def _trusted(state: os.stat_result) -> bool:
    """Tell whether nobody but root and this user can put or change what lies in a folder, or may change it there."""
    if state.st_uid not in (os.geteuid(), 0):
        return False
    return not state.st_mode & OTHERS_WRITE or bool(state.st_mode & stat.S_ISVTX)


@dataclass(frozen=True)
class Cache:
    """Results under `folder`, by kind and key."""

    folder: Path

    def entry(self, kind: str, key: object, make: Callable[[Path], None]) -> Path:
        """Return the folder of an entry that is whole; `make` fills it if there is none.

        The key is everything that the result depends on. Another process that wants the same entry waits for it.

        Args:
            kind: the name of a folder of such entries.
            key: everything that the result depends on.
            make: fills an empty folder.

        Raises:
            CacheError: if the cache cannot be written, or has no room.
        """
        place = self.folder / kind / digest(key)
        if self._fault(place) is None:
            return place
        with self.locked(place):
            fault = self._fault(place)  # another process may have made it
            if fault:
                logger.warning("the cache entry %s is damaged and made anew: %s", place, fault)
            if fault is not None:
                self._make(place, make)
        return place

    def record(self, kind: str, key: object, record: type[T], make: Callable[[], T]) -> T:
        """Return a record (anything msgspec can write) that is kept as JSON, making it if it is not there.

        Args:
            kind: the name of a folder of such entries.
            key: everything that the result depends on.
            record: its type.
            make: computes it.
        """

        def fill(folder: Path) -> None:
            (folder / "record.json").write_bytes(msgspec.json.encode(make()))

        return decode((self.entry(kind, key, fill) / "record.json").read_bytes(), record)

    @contextmanager
    def usable(self) -> Iterator[None]:
        """Turn what the system refuses within the block into an error that names the cache folder."""
        try:
            yield
        except OSError as error:
            raise self._refusal(error) from error

    def _refusal(self, error: OSError) -> CacheError:
        if error.errno in _NO_ROOM:
            return CacheError(
                f"there is no room for another entry in the cache {self.folder}",
                got=error.strerror,
                fix=f"free some space there (and in {tempfile.gettempdir()}), or {_ANOTHER}",
            )
        return CacheError(
            f"the cache {self.folder} cannot be used",
            got=f"{error.strerror or error} at {error.filename}",
            expected="a folder of your own",
            fix=f"remove what is in the way or correct its permissions, or {_ANOTHER}",
        )

    def _name(self, place: Path) -> str:
        return f"edgefuse cache entry {place.relative_to(self.folder).as_posix()}"

    def _fault(self, place: Path) -> str | None:
        """Return why an entry cannot be used: empty if there is none, None if nothing is wrong."""
        try:
            if not stat.S_ISDIR(place.lstat().st_mode):
                return "it is no folder"
            found = seal.signature(place)
            if _whole.get(place) == found:
                return None
            seal.check(place, self._name(place))
        except (FileNotFoundError, NotADirectoryError):
            return ""
        except OSError as error:
            return f"{error.filename}: {error.strerror}"
        except Broken as error:
            return str(error)
        _remember(place, found)
        return None

    @contextmanager
    def locked(self, place: Path) -> Iterator[None]:
        """Keep other processes from making an entry within the block."""
        path = place.with_name(f"{place.name}.lock")
        lock = FileLock(path)
        with self.usable():
            for folder in (self.folder, place.parent):
                folder.mkdir(mode=_MODE, parents=True, exist_ok=True)
            if path.is_symlink():  # which older versions of the library follow, emptying what it leads to
                path.unlink()
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def _make(self, place: Path, make: Callable[[Path], None]) -> None:
        # The lock is held, so whatever lies here under this name belongs to a compile that was killed.
        with self.usable():
            for stale in place.parent.glob(f"{place.name}.tmp-*"):
                _remove(stale)
            temporary = Path(tempfile.mkdtemp(prefix=f"{place.name}.tmp-", dir=place.parent))
        try:
            with self._written(temporary):
                make(temporary)
                seal.seal(temporary, self._name(place))
                temporary.chmod(_MODE)
                put(temporary, place)
        finally:
            _remove(temporary)

    @contextmanager
    def _written(self, temporary: Path) -> Iterator[None]:
        """Tell what the system refuses when an entry is written from what else `make` may stumble over."""
        try:
            yield
        except OSError as error:
            ours = isinstance(error.filename, str | Path) and temporary.parent in Path(error.filename).parents
            if ours or error.errno in _NO_ROOM:
                raise self._refusal(error) from error
            raise


def _remember(place: Path, found: Signature) -> None:
    """Note that a large entry is whole, unless a change of its files could still go unnoticed."""
    size = sum(size for _, _, size, _, _ in found)
    changed_ns = max(changed_ns for *_, changed_ns in found)
    if size > _REMEMBERED_BYTES and time.time_ns() - changed_ns > _SETTLED_SECONDS * 1e9:
        _whole[place] = found


def put(temporary: Path, place: Path) -> None:
    """Rename what is finished, in place of whatever has its name: others who read that keep what they have open."""
    if os.path.lexists(place):
        aside = place.with_name(f"{temporary.name}-damaged")
        place.rename(aside)
        temporary.rename(place)
        _remove(aside)
    else:
        temporary.rename(place)


def _remove(path: Path) -> None:
    """Remove what is not needed any more, if the system lets us; never what a link leads to."""
    with suppress(OSError):
        if not path.is_symlink() and path.is_dir():
            path.chmod(0o700)
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
