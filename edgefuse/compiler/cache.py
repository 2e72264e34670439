"""A folder of results that are expensive to make, shared by concurrent compiles and safe against a kill.

An entry is a folder named by the SHA-256 of its key. It is made in a temporary folder under a lock and then renamed,
so it is there in full or not at all.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec
from filelock import FileLock

T = TypeVar("T")


def default_folder() -> Path:
    """Return the cache folder: `EDGEFUSE_CACHE`, or `edgefuse` in the user's cache folder."""
    if chosen := os.environ.get("EDGEFUSE_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgefuse"


def digest(key: object) -> str:
    """Return the SHA-256 of a key made of structs, dicts, lists, strings and numbers."""
    return hashlib.sha256(msgspec.json.encode(key, order="sorted")).hexdigest()


@dataclass(frozen=True)
class Cache:
    """Results under `folder`, by kind and key."""

    folder: Path

    def entry(self, kind: str, key: object, make: Callable[[Path], None]) -> Path:
        """Return the folder of an entry, making it if it is not there.

        Args:
            kind: a short name that keeps entries of one kind together.
            key: everything that the result depends on.
            make: fills an empty folder with the result. Another process that wants the same entry waits for it.
        """
        place = self.folder / kind / digest(key)
        if place.is_dir():
            return place
        place.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{place}.lock"):
            if not place.is_dir():
                self._make(place, make)
        return place

    def record(self, kind: str, key: object, record: type[T], make: Callable[[], T]) -> T:
        """Return a record (anything msgspec can write) that is kept as JSON, making it if it is not there."""

        def fill(folder: Path) -> None:
            (folder / "record.json").write_bytes(msgspec.json.encode(make()))

        return msgspec.json.decode((self.entry(kind, key, fill) / "record.json").read_bytes(), type=record)

    def _make(self, place: Path, make: Callable[[Path], None]) -> None:
        # The lock is held, so whatever lies here under this name belongs to a compile that was killed.
        for stale in place.parent.glob(f"{place.name}.tmp-*"):
            shutil.rmtree(stale, ignore_errors=True)
        temporary = Path(tempfile.mkdtemp(prefix=f"{place.name}.tmp-", dir=place.parent))
        try:
            make(temporary)
            temporary.chmod(0o755)
            temporary.rename(place)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
