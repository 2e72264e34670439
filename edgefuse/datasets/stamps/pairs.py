"""The stamps for retrieval: each stamp once, with its picture, its caption and one of its recordings.

Splits are those of `items`: no thing is in two of them. Of stamps with the same caption the first is kept, since a
caption that fits several pictures has no right one among them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from edgefuse.datasets.sample import MadeSamples, Sample, Splits
from edgefuse.datasets.stamps.items import DEFAULT, StampItems, items
from edgefuse.datasets.stamps.material import material

_VERSION = 1


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
    of = items(split)
    recordings: dict[str, list[int]] = {}
    stamps: dict[str, int] = {}
    for index in range(len(of)):
        caption, stamp = of.stamp(index).caption, of.stamp_index(index)
        if stamps.setdefault(caption, stamp) == stamp:
            recordings.setdefault(caption, []).append(index)
    chosen = [found[number % len(found)] for number, found in enumerate(recordings.values())]
    return Pairs(of, chosen)


def load() -> Splits:
    """Return all parts; the first call fetches and decodes the package.

    Raises:
        DataError: the package cannot be fetched or holds something unexpected.
    """
    parts = {name: pairs(name) for name in ("calibration", "validation", "test")}
    digest = hashlib.sha256(f"pairs {_VERSION} {DEFAULT!r} {material().digest}".encode()).hexdigest()
    return Splits(**parts, digest=digest)
