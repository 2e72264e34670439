"""The data set of the reference model `classifier`: the same piece of clothing shown, described and named aloud.

Pictures: real, of Fashion-MNIST, degraded. Speech: **synthetic**, by eSpeak NG. Text: **made up** of names, colours and
other words, sometimes vague, with typing errors. So each input alone leaves doubt.

The training pictures have a **long tail**: each label has fewer than the one before it, down to a twentieth. All other
splits are balanced. The test pictures are of the part that the authors of Fashion-MNIST set aside. No picture and no
voice of one split is in another. An item is a pure function of its split and index.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
import numpy.typing as npt

from edgefuse.datasets.clothing import names, pictures
from edgefuse.datasets.clothing.pictures import Pictures
from edgefuse.datasets.digits import images, speech
from edgefuse.datasets.digits.images import Degradation
from edgefuse.datasets.digits.pool import SPLITS, Pool, PooledItems, digest, kept
from edgefuse.datasets.sample import Splits

CLASSES = len(names.LABELS)
DEGRADED = Degradation(scale=(1.6, 2.2), angle=(-15.0, 15.0), contrast=(70.0, 170.0), noise=(4.0, 24.0), bars=(0, 2))


@dataclass(frozen=True)
class Settings:
    """Everything that decides what the data set holds.

    Attributes:
        version: raised whenever the code changes what the same settings give.
        seed: of every draw.
        most: training pictures of the first label.
        fewest: of the last; those between follow a geometric series.
        pictures: distinct pictures of the calibration, validation and test split, the same number of each label.
        recovery_items: training samples that `load` gives for recovery after pruning.
        takes: how often each voice names each label, per split; it says its names in turn.
        degradation: of the pictures.
        snr_db: range of the signal-to-noise ratio of the sound.
        vague: the fraction of texts that say only of what kind a thing is.
        typing_errors: mean number in a text.
    """

    version: int = 1
    seed: int = 20
    most: int = 1600
    fewest: int = 80
    pictures: tuple[int, int, int] = (300, 1000, 2000)
    recovery_items: int = 10_000
    takes: tuple[int, int, int, int] = (2, 1, 1, 1)
    degradation: Degradation = DEGRADED
    snr_db: tuple[float, float] = (-3.0, 15.0)
    vague: float = 0.25
    typing_errors: float = 1.5

    def counts(self) -> list[int]:
        """Return the training pictures of each label."""
        steps = np.arange(CLASSES) / (CLASSES - 1)
        return [round(count) for count in self.most * (self.fewest / self.most) ** steps]


DEFAULT = Settings()


class ClothingItems(PooledItems):
    """The samples of one split, made when asked for."""

    def __init__(self, split: str, count: int, pool: Pool, settings: Settings) -> None:
        super().__init__(split, count, pool, settings.seed, settings.snr_db)
        self._settings = settings

    def image(self, index: int) -> npt.NDArray[np.uint8]:
        """Return the frame of an item, uint8 [64, 64]."""
        return images.render(self._picture(index), self._rng(index, 0), self._settings.degradation)

    def text(self, index: int) -> str:
        """Return the text of an item."""
        how = self._settings
        rng = self._rng(index, 1)
        return names.write(self.target(index), rng, vague=how.vague, mean_errors=how.typing_errors)

    def audio(self, index: int) -> npt.NDArray[np.float32]:
        """Return the sound of an item, float32 [16000]."""
        return self._recorded(index, self._rng(index, 2))


def load(settings: Settings = DEFAULT) -> Splits:
    """Return all parts; the first call fetches pictures and synthesises speech.

    Raises:
        DataError: a package cannot be fetched, or the speech engine fails.
    """
    parts = {name: items(name, settings) for name in SPLITS[1:]}
    parts["train"] = items("train", settings, settings.recovery_items)
    content = hashlib.sha256(repr(settings).encode())
    for name, part in parts.items():
        content.update(digest(f"{name} {len(part)}", pool(name, settings)).encode())
    return Splits(**parts, digest=content.hexdigest())


def items(split: str, settings: Settings = DEFAULT, count: int | None = None) -> ClothingItems:
    """Return the items of one split, one per picture; of `train`, any number (`count`) can be drawn.

    Args:
        split: its name.
        settings: of the data set.
        count: of items; None for one per picture.
    """
    material = pool(split, settings)
    return ClothingItems(split, len(material.labels) if count is None else count, material, settings)


def pool(split: str, settings: Settings = DEFAULT) -> Pool:
    """Return the clean material of a split, from the cache where it is there."""
    material = (settings.version, settings.seed, settings.counts(), settings.pictures, settings.takes, names.NAMES)
    decisive = (split, material, pictures.SHA256, speech.VARIANTS, speech.ACCENTS, version("espeakng-loader"))
    return kept("clothing", decisive, lambda: _make_pool(split, settings))


def _make_pool(split: str, settings: Settings) -> Pool:
    place = SPLITS.index(split)
    training, testing = pictures.fetch()
    source, chosen = (testing if split == "test" else training), _share(training, testing, settings)[split]
    clips = speech.speak(split, names.NAMES, takes=settings.takes[place], seed=settings.seed + place)
    return Pool(pictures=source.pictures[chosen], labels=source.labels[chosen], clips=clips)


def _share(training: Pictures, testing: Pictures, settings: Settings) -> dict[str, npt.NDArray[np.int64]]:
    """Deal the pictures of every label out to the splits, each split in random order; return picture numbers."""
    rng = np.random.default_rng(settings.seed)
    even = dict(zip(SPLITS[1:], ([count // CLASSES] * CLASSES for count in settings.pictures), strict=True))
    wanted = {"calibration": even["calibration"], "validation": even["validation"], "train": settings.counts()}
    dealt: dict[str, list[npt.NDArray[np.int64]]] = {split: [] for split in SPLITS}
    for label in range(CLASSES):
        order = rng.permutation(np.flatnonzero(training.labels == label))
        ends = np.cumsum([counts[label] for counts in wanted.values()])
        for split, part in zip(wanted, np.split(order, ends), strict=False):
            dealt[split].append(part)
        dealt["test"].append(rng.permutation(np.flatnonzero(testing.labels == label))[: even["test"][label]])
    return {split: rng.permutation(np.concatenate(parts)) for split, parts in dealt.items()}
