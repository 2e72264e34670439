"""Make an item out of clean material: a stamp on a coloured ground, a recording in a window, a caption.

Every function draws from the generator it is given, and from nothing else.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageEnhance

from edgefuse.datasets.stamps.material import MAX_SAMPLES, SIZE, Stamp

Range = tuple[float, float]


@dataclass(frozen=True)
class Augmentation:
    """Ranges from which each item draws, uniformly; the defaults change little and are those of the evaluated splits.

    Attributes:
        scale: size of the stamp relative to the frame; it lies anywhere in it.
        angle: rotation in degrees.
        flip: probability of a mirrored picture.
        brightness: factor on all colours.
        contrast: factor on the distance from the mean grey.
        saturation: factor on the distance from grey.
        ground: grey levels that each channel of the ground is drawn from.
        speed: factor on the speed of the speech (the pitch moves along).
        gain_db: of the sound.
        snr_db: ratio of speech to white noise; `None` adds no noise.
        shift: whether the speech starts anywhere in the window instead of at its beginning.
        dropped_words: probability of each word of a caption to be left out.
        file_names: probability of the words of the file's name in the caption's place.
    """

    scale: Range = (0.8, 1.0)
    angle: Range = (0.0, 0.0)
    flip: float = 0.0
    brightness: Range = (0.9, 1.1)
    contrast: Range = (1.0, 1.0)
    saturation: Range = (1.0, 1.0)
    ground: Range = (150.0, 255.0)
    speed: Range = (1.0, 1.0)
    gain_db: Range = (-6.0, 0.0)
    snr_db: Range | None = None
    shift: bool = False
    dropped_words: float = 0.0
    file_names: float = 0.0


MILD = Augmentation()
STRONG = Augmentation(
    scale=(0.5, 1.0),
    angle=(-20.0, 20.0),
    flip=0.5,
    brightness=(0.7, 1.3),
    contrast=(0.7, 1.3),
    saturation=(0.5, 1.5),
    ground=(0.0, 255.0),
    speed=(0.85, 1.18),
    gain_db=(-15.0, 0.0),
    snr_db=(10.0, 45.0),
    shift=True,
    dropped_words=0.15,
    file_names=0.2,
)


def place(picture: npt.NDArray[np.uint8], rng: np.random.Generator, how: Augmentation) -> npt.NDArray[np.uint8]:
    """Lay a stamp, uint8 [SIZE, SIZE, 4], on a ground of one colour; return uint8 [SIZE, SIZE, 3].

    Args:
        picture: RGBA, uint8 [SIZE, SIZE, 4].
        rng: draws ground, size and place.
        how: how much of each.
    """
    ground = tuple(int(level) for level in rng.uniform(*how.ground, 3))
    angle, scale = rng.uniform(*how.angle), rng.uniform(*how.scale)
    factors = [rng.uniform(*span) for span in (how.brightness, how.contrast, how.saturation)]
    where, mirrored = rng.random(2), rng.random() < how.flip
    stamp = Image.fromarray(picture)
    if mirrored:
        stamp = stamp.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if angle:
        stamp = stamp.rotate(angle, Image.Resampling.BILINEAR)
    side = max(16, round(SIZE * scale))
    stamp = stamp.convert("RGBa").resize((side, side), Image.Resampling.BILINEAR).convert("RGBA")
    frame = Image.new("RGB", (SIZE, SIZE), ground)
    corner = (int(where[0] * (SIZE - side)), int(where[1] * (SIZE - side)))
    frame.paste(stamp, corner, stamp)
    for enhance, factor in zip(
        (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color), factors, strict=True
    ):
        if factor != 1.0:
            frame = enhance(frame).enhance(factor)
    return np.asarray(frame, dtype=np.uint8)


def record(pcm: npt.NDArray[np.int16], rng: np.random.Generator, how: Augmentation) -> npt.NDArray[np.float32]:
    """Place speech in a window of two seconds; return float32 [32000] in [-1, 1].

    Args:
        pcm: speech at 16 kHz, int16 [samples].
        rng: draws place, volume and noise.
        how: how much of each.
    """
    speed, gain = rng.uniform(*how.speed), 10 ** (rng.uniform(*how.gain_db) / 20)
    speech = pcm.astype(np.float32) / np.float32(32768)
    if speed != 1.0:
        times = np.arange(0, speech.size - 1, speed)
        speech = np.interp(times, np.arange(speech.size), speech).astype(np.float32)
    speech = speech[:MAX_SAMPLES]
    start = int(rng.integers(MAX_SAMPLES - speech.size + 1)) if how.shift else 0
    window = np.zeros(MAX_SAMPLES, dtype=np.float32)
    window[start : start + speech.size] = speech
    if how.snr_db is not None:
        loudness = float(np.sqrt(np.mean(speech**2)))
        noise = rng.standard_normal(MAX_SAMPLES, dtype=np.float32)
        window += np.float32(loudness * 10 ** (-rng.uniform(*how.snr_db) / 20)) * noise
    return np.asarray(np.clip(window * np.float32(gain), -1.0, 1.0), dtype=np.float32)


def write(stamp: Stamp, rng: np.random.Generator, how: Augmentation) -> str:
    """Return the caption, or the words of the file's name; never an empty text.

    Args:
        stamp: with its caption.
        rng: draws what is left out.
        how: how much of it.
    """
    by_name, luck = rng.random() < how.file_names, rng.random(64)
    text = stamp.caption
    if by_name:
        text = " ".join(re.findall(r"[A-Za-z]{2,}", PurePosixPath(stamp.path).stem)) or text
    words = text.split()
    kept = [word for word, chance in zip(words, luck, strict=False) if chance >= how.dropped_words]
    return " ".join(kept or words[-1:])
