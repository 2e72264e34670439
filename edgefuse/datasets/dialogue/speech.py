"""Sentences in three languages as eSpeak NG says them, and the noise that is recorded with them: **synthetic**.

No voice of one split is in another, and some accents are heard in the test split only.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgefuse.datasets.cache import Cache, cache_folder
from edgefuse.datasets.digits.espeak import SAMPLE_RATE_HZ, Utterance, synthesise
from edgefuse.datasets.digits.speech import VARIANTS
from edgefuse.datasets.sentiment.speech import compress

SAMPLES = 3 * SAMPLE_RATE_HZ
_ACCENTS = {"en": ("en-us", "en", "en-gb-scotland"), "de": ("de",), "fr": ("fr",)}
_HEARD_IN_TEST_ONLY = {"en": ("en-029",), "de": (), "fr": ("fr-be", "fr-ch")}
_FILE = "speech.npy"
_CALL = 200  # utterances that one process of the engine says


def voices(split: str) -> tuple[object, ...]:
    """Return all that decides how the sentences of a split sound, but for a seed."""
    accents = (_ACCENTS, _HEARD_IN_TEST_ONLY) if split == "test" else _ACCENTS
    return (VARIANTS[split], accents, SAMPLES, version("espeakng-loader"))


def spoken(sentences: Sequence[tuple[str, str]], split: str, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Say every sentence by a voice and an accent of a split, at random rate and pitch.

    Args:
        sentences: each with its language.
        split: whose voices.
        rng: draws them.

    Returns:
        uint8 [sentences, SAMPLES]: the first three seconds, silence behind a shorter one, by the µ-law
        (`sentiment.speech.expand`).
    """
    said = []
    for text, language in sentences:
        accents = _ACCENTS[language] + (_HEARD_IN_TEST_ONLY[language] if split == "test" else ())
        accent, variant = str(rng.choice(accents)), str(rng.choice(VARIANTS[split]))
        rate, pitch, spread = (int(value) for value in rng.integers((190, 20, 20), (250, 80, 80)))
        said.append(Utterance(text, accent, variant, rate, pitch, spread))
    clips = np.full((len(said), SAMPLES), compress(np.zeros(1, np.int16))[0], np.uint8)
    for start in range(0, len(said), _CALL):
        for row, clip in enumerate(synthesise(said[start : start + _CALL]), start=start):
            clips[row, : clip.size] = compress(clip[:SAMPLES])
    return clips


def kept(
    kind: str, key: str, sentences: Sequence[tuple[str, str]], split: str, seed: Sequence[int]
) -> npt.NDArray[np.uint8]:
    """Return what `spoken` gives, mapped from a file in the cache; the first call says it.

    Args:
        kind: of the entry in the cache.
        key: of everything that decides how it sounds.
        sentences: each with its language.
        split: whose voices.
        seed: of what draws them.
    """

    def make(folder: Path) -> None:
        data = io.BytesIO()  # to a file, numpy does not say why it could not write
        np.save(data, spoken(sentences, split, np.random.default_rng(seed)), allow_pickle=False)
        (folder / _FILE).write_bytes(data.getbuffer())

    folder = Cache(cache_folder()).entry(kind, key, make)
    speech: npt.NDArray[np.uint8] = np.load(folder / _FILE, mmap_mode="r", allow_pickle=False)
    return speech


def noisy(said: npt.NDArray[np.int16], snr_db: tuple[float, float], rng: np.random.Generator) -> npt.NDArray[np.int16]:
    """Return a clip in white noise, quieter or not, int16 [SAMPLES].

    Args:
        said: int16 [SAMPLES].
        snr_db: the range of the signal-to-noise ratio over the clip.
        rng: draws ratio, noise and loudness.
    """
    speech = said.astype(np.float32)
    power = float(np.sqrt(np.mean(speech * speech))) * 10 ** (-rng.uniform(*snr_db) / 20)
    mixed = speech + np.float32(power) * rng.standard_normal(SAMPLES, dtype=np.float32)
    return np.asarray(np.clip(np.rint(mixed * np.float32(rng.uniform(0.3, 1.0))), -32768, 32767), np.int16)
