"""Running statistics of activations, of constant size: memory does not grow with the number of samples."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from edgefuse.errors import QuantizeError

BINS = 4096

_LARGEST = float(np.finfo(np.float32).max)
_SMALLEST = float(np.finfo(np.float32).tiny)
"""Below it float32 is subnormal, which some processors and runtimes take for zero and others do not: it counts as zero
here, so that neither order, nor grouping, nor the mode of a thread decides where it falls."""
_CHUNK = 1 << 15  # values counted at a time: what is made of them in between stays in the cache


def not_finite(tensor: str, got: str) -> QuantizeError:
    """Return the error of a tensor in which calibration met NaN or infinity."""
    return QuantizeError(
        f"calibration found numbers that are not finite in '{tensor}'",
        got=got,
        fix="check the calibration data and the model's weights",
    )


@dataclass(frozen=True)
class Range:
    """The numbers that a static activation has to express; it always holds zero."""

    low: float
    high: float


@dataclass
class RunningRange:
    """The extremes of all values seen, and a histogram of them over [-reach, reach].

    When a value falls outside, the reach, a power of two, doubles and neighbouring bins merge, so the histogram is
    exact up to the width of a bin, never grows, and does not depend on the order of the samples. What is subnormal in
    float32 counts as zero, and what lies beyond float32, in which scales are written, is refused.

    Args:
        name: of the tensor, for messages.
        counting: whether the histogram is filled; the extremes alone come cheaper.
    """

    name: str
    counting: bool = True
    low: float = np.inf
    high: float = -np.inf
    reach: float = 0.0
    counts: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))

    def update(self, values: npt.NDArray[Any]) -> None:
        """Take in the values of one sample.

        Raises:
            QuantizeError: if one is NaN, infinite or beyond float32.
        """
        if values.size == 0:
            return
        low, high = float(values.min()), float(values.max())
        if not -_LARGEST <= low <= high <= _LARGEST:  # NaN is nowhere
            raise not_finite(self.name, f"values from {low} to {high}")
        low, high = (0.0 if abs(end) < _SMALLEST else end for end in (low, high))
        self.low, self.high = min(self.low, low), max(self.high, high)
        if self.counting:
            self._widen(max(-low, high))
            self._count(values)

    def extremes(self) -> Range:
        """Return the extremes.

        Raises:
            QuantizeError: if nothing was seen.
        """
        if self.low > self.high:
            raise QuantizeError(
                f"calibration saw no values of '{self.name}'", fix="give at least one calibration sample"
            )
        return Range(min(self.low, 0.0), max(self.high, 0.0))

    def edges(self) -> npt.NDArray[np.float64]:
        """Return the borders of the bins, float64 [BINS + 1]."""
        return np.linspace(-self.reach, self.reach, BINS + 1)

    def _count(self, values: npt.NDArray[Any]) -> None:
        # The width of a bin is a power of two: in float64, where no product of a float32 and it is subnormal, scaling
        # is exact, and every value falls into its bin without a search.
        per_unit = BINS / (2.0 * self.reach) if self.reach > 0.0 else 0.0
        flat = values.ravel()
        for start in range(0, flat.size, _CHUNK):
            scaled = np.multiply(flat[start : start + _CHUNK], per_unit, dtype=np.float64)
            scaled[np.abs(scaled) < _SMALLEST * per_unit] = 0.0
            self.counts += np.bincount(np.floor(scaled).astype(np.int64) + BINS // 2, minlength=BINS)

    def _widen(self, magnitude: float) -> None:
        """Double the reach until a magnitude lies below it, merging pairs of bins towards the middle."""
        if self.reach == 0.0 and magnitude > 0.0:
            self.reach = math.ldexp(1.0, math.frexp(magnitude)[1])  # the least power of two above it
        while magnitude >= self.reach > 0.0:
            merged = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts = np.zeros(BINS, np.int64)
            self.counts[BINS // 4 : 3 * BINS // 4] = merged
            self.reach *= 2.0
