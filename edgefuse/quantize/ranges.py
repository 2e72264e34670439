"""Running statistics of activations, of constant size: memory does not grow with the number of samples."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from edgefuse.errors import QuantizeError

BINS = 4096

_SMALLEST_EXPONENT = -60  # a reach of 2^-60: below it, the width of a bin would leave the range of float64


@dataclass(frozen=True)
class Range:
    """The numbers that a static activation has to express; it always holds zero."""

    low: float
    high: float


@dataclass
class RunningRange:
    """The extremes of all values seen, and a histogram of them over [-reach, reach].

    When a value falls outside, the reach, a power of two, doubles and neighbouring bins merge, so the histogram is
    exact up to the width of a bin, never grows, and does not depend on the order of the samples.

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
        # The width of a bin is a power of two: scaling is exact, and every value falls into its bin without a search.
        per_unit = BINS / (2.0 * self.reach) if self.reach > 0.0 else 0.0
        bins = np.floor(values.ravel() * values.dtype.type(per_unit)).astype(np.int64) + BINS // 2
        self.counts += np.bincount(bins, minlength=BINS)

    def _widen(self, magnitude: float) -> None:
        """Double the reach until a magnitude lies below it, merging pairs of bins towards the middle."""
        if self.reach == 0.0 and magnitude > 0.0:
            self.reach = float(2.0 ** max(np.floor(np.log2(magnitude)) + 1, _SMALLEST_EXPONENT))
        while magnitude >= self.reach > 0.0:
            merged = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts = np.zeros(BINS, np.int64)
            self.counts[BINS // 4 : 3 * BINS // 4] = merged
            self.reach *= 2.0
