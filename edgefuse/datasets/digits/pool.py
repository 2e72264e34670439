"""The clean material of a split: small pictures and spoken names, kept in the cache."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgefuse.datasets.cache import Cache, cache_folder
from edgefuse.datasets.digits.speech import Clips

_POOL = "pool.npz"


@dataclass(frozen=True)
class Pool:
    """The clean material of one split.

    Attributes:
        pictures: uint8 [pictures, 28, 28].
        labels: int64 [pictures], what each picture shows.
        clips: spoken names.
    """

    pictures: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    clips: Clips


def kept(kind: str, decisive: object, make: Callable[[], Pool]) -> Pool:
    """Return a pool from the cache, made if it is not there.

    Args:
        kind: of entries in the cache, such as `digits`.
        decisive: whose text has everything that the content depends on.
        make: the pool.
    """

    def write(folder: Path) -> None:
        _save(folder / _POOL, make())

    with np.load(Cache(cache_folder()).entry(kind, repr(decisive), write) / _POOL, allow_pickle=False) as file:
        clips = Clips(pcm=file["pcm"], ends=file["ends"], labels=file["said"])
        return Pool(pictures=file["pictures"], labels=file["digits"], clips=clips)


def digest(name: str, pool: Pool) -> str:
    """Return the SHA-256 of a pool and its name."""
    found = hashlib.sha256(name.encode())
    for array in (pool.pictures, pool.labels, pool.clips.pcm, pool.clips.ends, pool.clips.labels):
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def _save(path: Path, made: Pool) -> None:
    clips = made.clips
    data = io.BytesIO()  # to a file, numpy does not say why it could not write
    np.savez(data, pictures=made.pictures, digits=made.labels, pcm=clips.pcm, ends=clips.ends, said=clips.labels)
    path.write_bytes(data.getvalue())
