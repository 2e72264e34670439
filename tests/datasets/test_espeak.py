"""Synthetic speech is reproducible and says no in sentences."""

from __future__ import annotations

import numpy as np
import pytest

from edgefuse.datasets.digits.espeak import Utterance, synthesise
from edgefuse.errors import DataError


def test_same_utterances_give_the_same_samples() -> None:
    said = [Utterance("seven", accent, variant) for accent in ("en-us", "en-029") for variant in ("f1", "klatt2")]
    first, second = synthesise(said), synthesise(said)
    assert len(first) == 4
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert all(3000 < clip.size < 16_000 for clip in first)
    assert all(int(np.abs(clip.astype(int)).max()) > 29_000 for clip in first)


def test_unknown_voice_is_named() -> None:
    with pytest.raises(DataError, match=r"does not know a voice: got 'en-nowhere\+f1'"):
        synthesise([Utterance("one", "en-nowhere", "f1")])


def test_variant_that_cannot_be_reproduced_is_refused() -> None:
    with pytest.raises(DataError, match="sounds different every time: got 'whisper'"):
        synthesise([Utterance("one", "en-us", "whisper")])
