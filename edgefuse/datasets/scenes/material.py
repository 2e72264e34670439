"""Real pictures of digits (MNIST) and clothes (Fashion-MNIST), of which no two splits share one."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgefuse.datasets.cache import Cache, cache_folder
from edgefuse.datasets.clothing import pictures as clothes
from edgefuse.datasets.digits import images as digits
from edgefuse.datasets.digits.pool import SPLITS
from edgefuse.datasets.scenes.names import CLOTHES, DIGITS

_FILE = "material.npz"


@dataclass(frozen=True)
class Material:
    """The pictures of one split.

    Attributes:
        pictures: uint8 [pictures, 28, 28], light on black.
        kinds: int64 [pictures], what each shows: places in `KINDS`.
    """

    pictures: npt.NDArray[np.uint8]
    kinds: npt.NDArray[np.int64]

    @cached_property
    def by_kind(self) -> list[npt.NDArray[np.int64]]:
        """The places of the pictures of each kind."""
        return [np.flatnonzero(self.kinds == kind) for kind in range(int(self.kinds.max()) + 1)]

    def digest(self) -> str:
        """Return the SHA-256 of all of it."""
        return hashlib.sha256(self.pictures.tobytes() + self.kinds.tobytes()).hexdigest()


@dataclass(frozen=True)
class Shares:
    """How many pictures of each kind the splits have, in the order of `SPLITS`.

    Attributes:
        digits: of the 500 of each digit in the package.
        clothes: those of test are of the part that the authors of Fashion-MNIST set aside.
    """

    digits: tuple[int, int, int, int] = (330, 20, 50, 100)
    clothes: tuple[int, int, int, int] = (800, 30, 80, 150)


SHARES = Shares()


def material(split: str, shares: Shares, seed: int) -> Material:
    """Return the pictures of a split, from the cache where they are there.

    Args:
        split: its name.
        shares: of all splits.
        seed: deals the pictures out.

    Raises:
        DataError: a package cannot be fetched.
    """

    def make(folder: Path) -> None:
        made = _make(split, shares, seed)
        data = io.BytesIO()  # to a file, numpy does not say why it could not write
        np.savez(data, pictures=made.pictures, kinds=made.kinds)
        (folder / _FILE).write_bytes(data.getvalue())

    key = repr((split, shares, seed, DIGITS, CLOTHES, clothes.SHA256))
    with np.load(Cache(cache_folder()).entry("scenes", key, make) / _FILE, allow_pickle=False) as file:
        return Material(file["pictures"], file["kinds"])


def _make(split: str, shares: Shares, seed: int) -> Material:
    training, testing = clothes.fetch()
    shown, labels = digits.pictures()
    place, rng = SPLITS.index(split), np.random.default_rng(seed)
    pictures: list[npt.NDArray[np.uint8]] = []
    for digit in range(len(DIGITS)):
        order = rng.permutation(np.flatnonzero(labels == digit))
        pictures.append(shown[_dealt(order, shares.digits)[place]])
    for label in CLOTHES.values():
        orders = [rng.permutation(np.flatnonzero(part.labels == label)) for part in (training, testing)]
        if split == "test":
            pictures.append(testing.pictures[orders[1][: shares.clothes[place]]])
        else:
            pictures.append(training.pictures[_dealt(orders[0], shares.clothes)[place]])
    kinds = np.repeat(np.arange(len(pictures)), [len(part) for part in pictures])
    return Material(np.concatenate(pictures), kinds)


def _dealt(order: npt.NDArray[np.int64], shares: tuple[int, ...]) -> list[npt.NDArray[np.int64]]:
    """Cut an order of pictures into parts of these sizes."""
    return np.split(order, np.cumsum(shares))[: len(shares)]
