"""The clean material of a split, small pictures and spoken names, kept in the cache; and items that draw from it."""

from __future__ import annotations

import hashlib
import io
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgefuse.datasets.cache import Cache, cache_folder
from edgefuse.datasets.digits import speech
from edgefuse.datasets.digits.speech import Clips
from edgefuse.datasets.sample import MadeSamples, RawInput, Sample

SPLITS = ("train", "calibration", "validation", "test")
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


class PooledItems(MadeSamples):
    """The samples of one split, each a picture of a pool with a clip that names it; text and picture are varied.

    Args:
        split: its name.
        count: of items.
        pool: what they are drawn from, picture after picture.
        seed: of every draw.
        snr_db: range of the signal-to-noise ratio of the sound.
    """

    def __init__(self, split: str, count: int, pool: Pool, seed: int, snr_db: tuple[float, float]) -> None:
        self.split = split
        self._count = count
        self._pool = pool
        self._seed = seed
        self._snr_db = snr_db
        self._said = [np.flatnonzero(pool.clips.labels == label) for label in range(int(pool.labels.max()) + 1)]

    def __len__(self) -> int:
        """Return the number of samples."""
        return self._count

    def target(self, index: int) -> int:
        """Return the label of an item without making its inputs."""
        return int(self._pool.labels[index % len(self._pool.labels)])

    @abstractmethod
    def image(self, index: int) -> npt.NDArray[np.uint8]:
        """Return the frame of an item, uint8 [64, 64]."""

    @abstractmethod
    def audio(self, index: int) -> npt.NDArray[np.float32]:
        """Return the sound of an item, float32 [16000]."""

    @abstractmethod
    def text(self, index: int) -> str:
        """Return the text of an item."""

    def _picture(self, index: int) -> npt.NDArray[np.uint8]:
        """Return the clean picture of an item, uint8 [28, 28]."""
        picture: npt.NDArray[np.uint8] = self._pool.pictures[index % len(self._pool.pictures)]
        return picture

    def _recorded(self, index: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
        """Return a clip that names an item, with noise, float32 [16000]."""
        said = self._said[self.target(index)]
        clip = self._pool.clips.clip(int(said[rng.integers(len(said))]))
        return speech.record(clip, rng, snr_db=self._snr_db)

    def _rng(self, index: int, purpose: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, SPLITS.index(self.split), purpose, index])

    def _sample(self, index: int) -> Sample:
        inputs: dict[str, RawInput] = {"image": self.image(index), "audio": self.audio(index), "text": self.text(index)}
        return Sample(inputs=inputs, target=self.target(index))


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
