"""The data set of the reference model `sentiment`: a sentence, written and said, and whether it is positive.

Text and ratings are real, **the speech is synthetic**.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgefuse.datasets.cache import Cache, cache_folder
from edgefuse.datasets.sample import MadeSamples, Sample, Splits
from edgefuse.datasets.sentiment import speech
from edgefuse.datasets.sentiment.sentences import Sentence
from edgefuse.datasets.sentiment.splits import DEFAULT, SPLITS, Settings, dealt, said

_FILE = "speech.npy"


class SentimentItems(MadeSamples):
    """The samples of one split; those of `train` that are said come first.

    Args:
        split: its name.
        sentences: one per sample.
        spoken: the first of them as speech, uint8 [said, SAMPLES].

    Attributes:
        sentences: one per sample.
        spoken: how many of them are said.
    """

    def __init__(self, split: str, sentences: Sequence[Sentence], spoken: npt.NDArray[np.uint8]) -> None:
        self.split = split
        self.sentences = tuple(sentences)
        self.spoken = len(spoken)
        self._spoken = spoken

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.sentences)

    def audio(self, index: int) -> npt.NDArray[np.int16]:
        """Return the sound of a sentence that is said, int16 [SAMPLES]."""
        return speech.expand(self._spoken[index])

    def _sample(self, index: int) -> Sample:
        sentence = self.sentences[index]
        if index >= self.spoken:
            return Sample({"text": sentence.text}, sentence.label, sentence.group)
        return Sample({"audio": self.audio(index), "text": sentence.text}, sentence.label, sentence.group)


def load(settings: Settings = DEFAULT) -> Splits:
    """Return all parts, sentences that are said alone; the first call fetches them and synthesises speech.

    Raises:
        DataError: the package cannot be fetched, or the speech engine fails.
    """
    parts = {split: _Spoken(split, settings) for split in SPLITS}
    digest = hashlib.sha256(repr(settings).encode())
    for split, part in parts.items():
        digest.update(repr((part.sentences, _voices(split, settings))).encode())
    return Splits(**parts, digest=digest.hexdigest())


def items(split: str, settings: Settings = DEFAULT) -> SentimentItems:
    """Return the items of one split.

    Args:
        split: its name.
        settings: of the data set.
    """
    return SentimentItems(split, dealt(settings)[split], _speech(split, settings))


class _Spoken(MadeSamples):
    """The samples of one split that are said; nothing is synthesised before one is asked for."""

    def __init__(self, split: str, settings: Settings) -> None:
        self._split = split
        self._settings = settings
        self.sentences = said(split, settings)

    def __len__(self) -> int:
        return len(self.sentences)

    def _sample(self, index: int) -> Sample:
        return _items(self._split, self._settings)[index]


@lru_cache(maxsize=len(SPLITS))
def _items(split: str, settings: Settings) -> SentimentItems:
    return items(split, settings)


def _voices(split: str, settings: Settings) -> tuple[object, ...]:
    """Return all that decides how the sentences of a split sound."""
    voices = (speech.VARIANTS[split], speech.ACCENTS[split])
    return (settings.version, settings.seed, voices, speech.SAMPLES, version("espeakng-loader"))


def _speech(split: str, settings: Settings) -> npt.NDArray[np.uint8]:
    """Return the speech of a split, uint8 [said, SAMPLES], mapped from a file in the cache."""
    texts = [sentence.text for sentence in said(split, settings)]

    def make(folder: Path) -> None:
        data = io.BytesIO()  # to a file, numpy does not say why it could not write
        np.save(data, speech.speak(texts, split, settings.seed + SPLITS.index(split)), allow_pickle=False)
        (folder / _FILE).write_bytes(data.getbuffer())

    key = repr((split, _voices(split, settings), hashlib.sha256(repr(texts).encode()).hexdigest()))
    folder = Cache(cache_folder()).entry("sentiment", key, make)
    spoken: npt.NDArray[np.uint8] = np.load(folder / _FILE, mmap_mode="r", allow_pickle=False)
    return spoken
