"""Synthetic speech: names spoken by many eSpeak NG voices, in noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt

from edgefuse.datasets.digits.espeak import SAMPLE_RATE_HZ, Utterance, synthesise

SAMPLES = SAMPLE_RATE_HZ  # one second
Pcm = npt.NDArray[np.float32]

# Voice variants of the engine, held apart by split.
_TRAIN_VARIANTS = """
    Alex Andrea Andy AnxiousAndy Denis Diogo Gene Henrique Jacky Lee Marco Mario Michael Mike Nguyen Reed RicishayMax
    Storm Tweaky adam anika announcer antonio benjamin boris caleb croak david edward f1 fast grandma gustave iven iven3
    john kaukovalta klatt klatt3 klatt5 linda m1 m3 m5 m7 marcelo max norbert paul quincy rob robosoft robosoft3
    robosoft5 robosoft7 shelby steph2 travis zac
"""
_CALIBRATION_VARIANTS = "Gene2 RicishayMax3 anikaRobot edward2 iven4 klatt6 m8 robosoft8"
_VALIDATION_VARIANTS = "Hugo RicishayMax2 ed grandpa iven2 klatt2 m2 m6 michel pablo robert robosoft4 steph"
_TEST_VARIANTS = "Annie UniRobot aunty belinda f4 ian klatt4 m4 miguel mike2 pedro robosoft2 robosoft6 steph3"
VARIANTS: dict[str, tuple[str, ...]] = {
    "train": tuple(_TRAIN_VARIANTS.split()),
    "calibration": tuple(_CALIBRATION_VARIANTS.split()),
    "validation": tuple(_VALIDATION_VARIANTS.split()),
    "test": tuple(_TEST_VARIANTS.split()),
}

# The last two accents of the test split are heard nowhere else.
ACCENTS: dict[str, tuple[str, ...]] = {
    "train": ("en-us", "en", "en-gb-scotland", "en-gb-x-rp"),
    "calibration": ("en-us", "en", "en-gb-scotland", "en-gb-x-rp"),
    "validation": ("en-us", "en", "en-gb-scotland", "en-gb-x-rp"),
    "test": ("en-us", "en-gb-scotland", "en-gb-x-gbclan", "en-029"),
}


@dataclass(frozen=True)
class Clips:
    """Clean clips of one split.

    Attributes:
        pcm: int16 [total samples], all clips end to end.
        ends: int64 [clips], where each clip ends.
        labels: int64 [clips], the class that each clip names.
    """

    pcm: npt.NDArray[np.int16]
    ends: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]

    def clip(self, index: int) -> npt.NDArray[np.int16]:
        """Return one clip, int16 [samples]."""
        start = int(self.ends[index - 1]) if index else 0
        return self.pcm[start : int(self.ends[index])]


def speak(split: str, names: Sequence[Sequence[str]], *, takes: int, seed: int) -> Clips:
    """Synthesise every class `takes` times by every voice and accent of a split, at random rate and pitch.

    Args:
        split: its name.
        names: of each class; voices and takes say them in turn.
        takes: per class and voice.
        seed: of rates and pitches.
    """
    rng = np.random.default_rng(seed)
    said: list[Utterance] = []
    labels: list[int] = []
    for voice, (accent, variant) in enumerate(product(ACCENTS[split], VARIANTS[split])):
        for take, (label, called) in product(range(takes), enumerate(names)):
            rate, pitch, spread = (int(value) for value in rng.integers((130, 20, 20), (215, 80, 80)))
            said.append(Utterance(called[(voice + take) % len(called)], accent, variant, rate, pitch, spread))
            labels.append(label)
    clips = synthesise(said)
    ends = np.cumsum([clip.size for clip in clips], dtype=np.int64)
    return Clips(pcm=np.concatenate(clips), ends=ends, labels=np.array(labels, np.int64))


def record(clip: npt.NDArray[np.int16], rng: np.random.Generator, *, snr_db: tuple[float, float]) -> Pcm:
    """Place a clip at a random onset in one second of coloured noise.

    Args:
        clip: int16 [samples]; what does not fit in one second is cut.
        rng: the source of onset, level, colour and noise.
        snr_db: the range of the signal-to-noise ratio over the clip, low and high.

    Returns:
        float32 [16000] in [-1, 1].
    """
    speech = clip[:SAMPLES].astype(np.float32) / np.float32(32768)
    onset = int(rng.integers(0, SAMPLES - speech.size + 1))
    power = float(np.mean(speech * speech)) + 1e-9
    noise = _noise(rng, slope=rng.uniform(0.0, 1.2))
    noise *= np.float32(np.sqrt(power) * 10 ** (-rng.uniform(*snr_db) / 20))
    noise[onset : onset + speech.size] += speech
    peak = float(np.abs(noise).max()) + 1e-9
    return np.asarray(noise * np.float32(rng.uniform(0.2, 0.95) / peak), np.float32)


def _noise(rng: np.random.Generator, *, slope: float) -> Pcm:
    """Return noise of unit power whose spectrum falls as frequency to the power of -slope, float32 [16000]."""
    spectrum = np.fft.rfft(rng.standard_normal(SAMPLES, dtype=np.float32))
    frequency = np.maximum(np.arange(spectrum.size), 50) / 50.0
    shaped = np.fft.irfft(spectrum * frequency ** (-slope / 2), SAMPLES)
    return np.asarray(shaped / np.sqrt(np.mean(shaped * shaped)), np.float32)
