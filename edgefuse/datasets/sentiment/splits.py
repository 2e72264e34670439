"""Which sentence is in which split.

Sentences in the neutral band are left out: those whose mean rating is less than half a step from 0. A hash of what a
sentence is part of deals it to a split, so that sentences of one review stay together and a sentence stays where it is
whatever else changes.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

from edgefuse.datasets.sentiment.sentences import Sentence, sentences

SPLITS = ("calibration", "validation", "test", "train")


@dataclass(frozen=True)
class Settings:
    """Everything that decides what the data set holds.

    Attributes:
        version: raised whenever the code changes what the same settings give.
        seed: of every draw.
        neutral_band: sentences whose mean rating is nearer to 0 than this are left out.
        shares: fraction of the groups for calibration, validation and test; the rest is for training.
        training: how many of those for training are used, at the most.
        spoken: how many of the training sentences are said; the others are text alone.
    """

    version: int = 1
    seed: int = 20
    neutral_band: float = 0.5
    shares: tuple[float, float, float] = (0.02, 0.05, 0.07)
    training: int = 14_000
    spoken: int = 2500


DEFAULT = Settings()


@lru_cache(maxsize=4)
def dealt(settings: Settings = DEFAULT) -> dict[str, tuple[Sentence, ...]]:
    """Return the sentences of every split, without those in the neutral band."""
    ends = list(accumulate(settings.shares))
    parts: dict[str, list[tuple[float, Sentence]]] = {split: [] for split in SPLITS}
    for sentence in sentences():
        if abs(sentence.rating) >= settings.neutral_band:
            place = _place(sentence.group, settings.seed)
            parts[SPLITS[bisect_right(ends, place)]].append((place, sentence))
    # In the order of their hashes, so that the first of a split are a random part of it.
    ordered = {split: [s for _, s in sorted(part, key=lambda pair: pair[0])] for split, part in parts.items()}
    limits = {"train": settings.training}
    return {split: tuple(part[: limits.get(split)]) for split, part in ordered.items()}


def _place(group: str, seed: int) -> float:
    """Return a number in [0, 1) that depends on these alone."""
    digest = hashlib.sha256(f"{seed} {group}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def said(split: str, settings: Settings = DEFAULT) -> tuple[Sentence, ...]:
    """Return the sentences of a split that are said: the first of `train`, all of the others.

    Args:
        split: its name.
        settings: of the data set.
    """
    chosen = dealt(settings)[split]
    return chosen[: settings.spoken] if split == "train" else chosen
