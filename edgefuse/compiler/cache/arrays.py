"""Arrays of many samples in the cache: written one sample at a time, read through a memory map.

Memory does not grow with the number of samples. The cache itself is that of `edgefuse.datasets.cache`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from edgefuse.errors import CacheError
from edgefuse.typed_json import decode

Array: TypeAlias = npt.NDArray[np.generic]


class _Column(msgspec.Struct):
    """One key: its element type and the shape of every sample (shapes may differ)."""

    file: str
    dtype: str
    shapes: list[tuple[int, ...]]


def changed(path: Path, got: object) -> CacheError:
    """Return the error for a file that was whole when this compile found it in the cache."""
    return CacheError(
        f"{path} changed while a compile was using it",
        got=got,
        expected="a cache that nothing else changes",
        fix="compile again: damaged entries are made anew",
    )


def write_arrays(folder: Path, samples: Iterable[Mapping[str, Array]]) -> None:
    """Write samples (key to array) into a folder, one at a time; all have the same keys and types.

    What is all zeros, as of absent modalities, becomes a hole in its file and takes no space.

    Raises:
        TypeError: if a key has another type than in the samples before.
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
                if array.dtype.str != columns[key].dtype:  # its bytes would be read as numbers of the first's type
                    raise TypeError(f"'{key}' is {array.dtype}, and {np.dtype(columns[key].dtype)} in samples before")
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

    Raises:
        CacheError: if the folder is damaged, after the cache has found it whole.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            columns = decode((folder / "index.json").read_bytes(), dict[str, _Column])
            self._data = {key: _map(folder / column.file, column.dtype) for key, column in columns.items()}
        except (OSError, ValueError, TypeError) as error:  # msgspec's and numpy's are among them
            raise changed(folder, f"'{error}'") from error
        self._columns = columns
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

    def is_even(self, key: str) -> bool:
        """Tell whether all samples have one shape."""
        return len(set(self._columns[key].shapes)) <= 1

    def stacked(self, key: str) -> Array:
        """Return one key of all samples as [samples, ...]; the shapes must be the same."""
        shapes = self._columns[key].shapes
        return self._data[key].reshape(len(shapes), *shapes[0])


def _map(path: Path, dtype: str) -> Array:
    if np.dtype(dtype).hasobject:  # what a file holds would be taken for addresses
        raise ValueError(f"an array file cannot hold the element type {dtype}")
    if path.stat().st_size == 0:
        return np.empty(0, dtype=dtype)
    return np.memmap(path, dtype=dtype, mode="r")
