"""The stamps for retrieval: each stamp once, with its picture, its caption and one of its recordings.

Splits are those of `items`: no thing is in two of them. Of stamps with the same caption the first is kept, since a
caption that fits several pictures has no right one among them.

The search sees more: retrieval needs no categories, so the stamps of all other folders stand beside the validation
split, as queries and as what is found, unless they are of a thing that some split has.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from edgefuse.datasets.sample import MadeSamples, Sample, Splits
from edgefuse.datasets.stamps.grouping import unlike
from edgefuse.datasets.stamps.items import DEFAULT, Joined, StampItems, items
from edgefuse.datasets.stamps.material import OTHERS, material

_VERSION = 2


class Pairs(MadeSamples):
    """Some items of a split, without targets: pictures, captions and recordings are to find each other."""

    def __init__(self, of: StampItems, chosen: Sequence[int]) -> None:
        self.of = of
        self.chosen = tuple(chosen)

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.chosen)

    def _sample(self, index: int) -> Sample:
        made = self.of[self.chosen[index]]
        return Sample(inputs=made.inputs, group=made.group)


def pairs(split: str) -> Pairs:
    """Return a split with one item for each caption: of its first stamp, the recordings of all languages in turn.

    Raises:
        DataError: the package cannot be fetched or holds something unexpected.
    """
    return _each_once(items(split))


def others() -> Pairs:
    """Return the same of the stamps of all other folders, but those of a thing that some split has.

    Raises:
        DataError: the package cannot be fetched or holds something unexpected.
    """
    content = material(OTHERS)
    kept = set(unlike(content, material()))
    recordings = [index for index, recording in enumerate(content.recordings) if recording.stamp in kept]
    settings = replace(DEFAULT, seed=DEFAULT.seed + 1)  # draws of their own, made like those of the validation split
    return _each_once(StampItems("validation", recordings, content, settings, len(recordings)))


def load() -> Splits:
    """Return all parts; the first call fetches and decodes the package.

    Raises:
        DataError: the package cannot be fetched or holds something unexpected.
    """
    digests = f"{material().digest} {material(OTHERS).digest}"
    return Splits(
        calibration=pairs("calibration"),
        validation=Joined(pairs("validation"), others()),
        test=pairs("test"),
        digest=hashlib.sha256(f"pairs {_VERSION} {DEFAULT!r} {digests}".encode()).hexdigest(),
    )


def _each_once(of: StampItems) -> Pairs:
    recordings: dict[str, list[int]] = {}
    stamps: dict[str, int] = {}
    for index in range(len(of)):
        caption, stamp = of.stamp(index).caption, of.stamp_index(index)
        if stamps.setdefault(caption, stamp) == stamp:
            recordings.setdefault(caption, []).append(index)
    return Pairs(of, [found[number % len(found)] for number, found in enumerate(recordings.values())])
