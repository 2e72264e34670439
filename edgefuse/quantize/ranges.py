"""Running statistics of activations, of constant size: memory does not grow with the number of samples."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from edgefuse.errors import QuantizeError

BINS = 4096
PERCENTILE = 99.99
"""What stays inside the range: the rest, in equal parts at both ends, saturates."""

_SMALLEST_EXPONENT = -60  # a reach of 2^-60: below it, the width of a bin would leave the range of float64


@dataclass(frozen=True)
class Range:
    """The numbers that a static activation has to express; it always holds zero."""

    low: float
    high: float


@dataclass
class RunningRange:
    """The extremes of all values seen, and a histogram of them over [-reach, reach].

    When a value falls outside, the reach doubles and neighbouring bins merge, so the histogram is exact up to the
    width of a bin and never grows.

    Args:
        name: of the tensor, for messages.
    """

    name: str
    low: float = np.inf
    high: float = -np.inf
    reach: float = 0.0
    counts: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))

    def update(self, values: npt.NDArray[Any]) -> None:
        """Take in the values of one sample.

        Raises:
            QuantizeError: if one is NaN or infinite.
        """
        if values.size == 0:
            return
        low, high = float(values.min()), float(values.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise QuantizeError(
                f"calibration found numbers that are not finite in '{self.name}'",
                got=f"values from {low} to {high}",
                fix="check the calibration data and the model's weights",
            )
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._widen(max(-low, high))
        if self.reach > 0:
            self.counts += np.histogram(values, BINS, (-self.reach, self.reach))[0]
        else:
            self.counts[BINS // 2] += values.size

    def minmax(self) -> Range:
        """Return the extremes.

        Raises:
            QuantizeError: if nothing was seen.
        """
        if self.low > self.high:
            raise QuantizeError(
                f"calibration saw no values of '{self.name}'", fix="give at least one calibration sample"
            )
        return Range(min(self.low, 0.0), max(self.high, 0.0))

    def percentile(self, kept: float = PERCENTILE) -> Range:
        """Return the range that holds `kept` percent of all values, never wider than the extremes."""
        widest = self.minmax()
        outside = (100.0 - kept) / 200.0 * float(self.counts.sum())
        below = np.cumsum(self.counts)
        edges = np.linspace(-self.reach, self.reach, BINS + 1)
        low = edges[int(np.searchsorted(below, outside, side="right"))]
        high = edges[int(np.searchsorted(below, float(below[-1]) - outside, side="left")) + 1]
        return Range(min(max(float(low), widest.low), 0.0), max(min(float(high), widest.high), 0.0))

    def _widen(self, magnitude: float) -> None:
        """Double the reach until a magnitude fits, merging pairs of bins towards the middle."""
        if self.reach == 0.0 and magnitude > 0.0:
            self.reach = float(2.0 ** max(np.ceil(np.log2(magnitude)), _SMALLEST_EXPONENT))
        while magnitude > self.reach:
            merged = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts = np.zeros(BINS, np.int64)
            self.counts[BINS // 4 : 3 * BINS // 4] = merged
            self.reach *= 2.0
