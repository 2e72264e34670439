"""What is kept on disk: results that are expensive to make, and arrays of many samples.

A cache is shared by concurrent compiles and safe against a kill. An entry is a folder named by the SHA-256 of its key,
made in a temporary folder under a lock and then renamed, so it is there in full or not at all. Arrays are read through
a memory map: memory does not grow with the number of samples.
"""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
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
        """Return the folder of an entry; `make` fills it if it is not there.

        The key is everything that the result depends on. Another process that wants the same entry waits for it.
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


Array: TypeAlias = npt.NDArray[np.generic]


class _Column(msgspec.Struct):
    """One key: its element type and the shape of every sample (shapes may differ)."""

    file: str
    dtype: str
    shapes: list[tuple[int, ...]]


def write_arrays(folder: Path, samples: Iterable[Mapping[str, Array]]) -> None:
    """Write samples (key to array) into a folder, one at a time; all have the same keys and types.

    What is all zeros, as of absent modalities, becomes a hole in its file and takes no space.
    """
    columns: dict[str, _Column] = {}
    with ExitStack() as stack:
        files = {}
        for sample in samples:
            for key, array in sample.items():
                if key not in columns:
                    name = f"{len(columns)}.bin"
                    columns[key] = _Column(name, array.dtype.str, [])
                    files[key] = stack.enter_context((folder / name).open("wb"))
                if array.any():
                    files[key].write(np.ascontiguousarray(array).tobytes())
                else:
                    files[key].seek(array.nbytes, os.SEEK_CUR)
                columns[key].shapes.append(array.shape)
        for file in files.values():
            file.truncate()
    (folder / "index.json").write_bytes(msgspec.json.encode(columns))


class ArrayStore:
    """What `write_arrays` wrote. `store[i]` is the i-th sample; its arrays are views of the file and read-only.

    A store travels to another process as its folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        columns = msgspec.json.decode((folder / "index.json").read_bytes(), type=dict[str, _Column])
        self._columns = columns
        self._data = {key: _map(folder / column.file, column.dtype) for key, column in columns.items()}
        self._starts = {
            key: np.concatenate([[0], np.cumsum([math.prod(shape) for shape in column.shapes])])
            for key, column in columns.items()
        }
        self._length = max((len(column.shapes) for column in columns.values()), default=0)

    def __reduce__(self) -> tuple[type[ArrayStore], tuple[Path]]:
        return ArrayStore, (self._folder,)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict[str, Array]:
        if not 0 <= index < self._length:
            raise IndexError(index)
        return {key: self.get(key, index) for key in self._columns}

    def get(self, key: str, index: int) -> Array:
        """Return one array of one sample."""
        starts = self._starts[key]
        return self._data[key][starts[index] : starts[index + 1]].reshape(self._columns[key].shapes[index])

    def flat(self, key: str) -> Array:
        """Return one key of all samples, end to end."""
        return self._data[key]

    def stacked(self, key: str) -> Array:
        """Return one key of all samples as [samples, ...]; the shapes must be the same."""
        shapes = self._columns[key].shapes
        return self._data[key].reshape(len(shapes), *shapes[0])


def _map(path: Path, dtype: str) -> Array:
    if path.stat().st_size == 0:
        return np.empty(0, dtype=dtype)
    return np.memmap(path, dtype=dtype, mode="r")
