"""Synthetic speech: the beginning of each sentence as eSpeak NG says it, in 8 bits by the µ-law."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edgefuse.datasets.digits.espeak import SAMPLE_RATE_HZ, Utterance, synthesise
from edgefuse.datasets.digits.speech import ACCENTS, VARIANTS

__all__ = ["ACCENTS", "SAMPLES", "SAMPLE_RATE_HZ", "VARIANTS", "compress", "expand", "speak"]

SAMPLES = 4 * SAMPLE_RATE_HZ
_MU = 255.0
_CALL = 200  # utterances that one process of the engine says


def speak(texts: Sequence[str], split: str, seed: int) -> npt.NDArray[np.uint8]:
    """Say every text by a voice and an accent of a split, at random rate and pitch.

    Args:
        texts: to say.
        split: whose voices; those of one split are in no other (`digits.speech`).
        seed: of the draws.

    Returns:
        uint8 [texts, SAMPLES]: the first four seconds, silence behind a shorter one; see `expand`.
    """
    rng = np.random.default_rng(seed)
    said: list[Utterance] = []
    for text in texts:
        accent, variant = str(rng.choice(ACCENTS[split])), str(rng.choice(VARIANTS[split]))
        rate, pitch, spread = (int(value) for value in rng.integers((190, 20, 20), (250, 80, 80)))
        said.append(Utterance(text, accent, variant, rate, pitch, spread))
    spoken = np.full((len(texts), SAMPLES), compress(np.zeros(1, np.int16))[0], np.uint8)
    for start in range(0, len(said), _CALL):
        for row, clip in enumerate(synthesise(said[start : start + _CALL]), start=start):
            spoken[row, : clip.size] = compress(clip[:SAMPLES])
    return spoken


def compress(pcm: npt.NDArray[np.int16]) -> npt.NDArray[np.uint8]:
    """Return 16-bit PCM in 8 bits: the µ-law of ITU-T G.711 as a formula, in 255 steps: silence stays silence."""
    x = pcm.astype(np.float32) / np.float32(32768)
    y = np.sign(x) * np.log1p(_MU * np.abs(x)) / np.log1p(_MU)
    return np.asarray(np.rint(y * 127) + 127, np.uint8)


def expand(codes: npt.NDArray[np.uint8]) -> npt.NDArray[np.int16]:
    """Return what `compress` was given, to some 38 dB."""
    y = (codes.astype(np.float32) - 127) / 127
    x = np.sign(y) * np.expm1(np.abs(y) * np.log1p(_MU)) / _MU
    return np.asarray(np.rint(x * 32767), np.int16)
