"""Calibrators: how the range of a static activation follows from the running statistics of its values.

All of them read one `RunningRange`, whose size does not depend on how much was seen, so they cost the same after ten
samples and after a million. A narrower range rounds everything finer and saturates what lies outside; `minmax`
saturates nothing, the others weigh one against the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from edgefuse.quantize.calibration.ranges import BINS, Range, RunningRange

PERCENTILE = 99.99
"""What stays inside the range of `percentile`: the rest, in equal parts at both ends, saturates."""

LEVELS = 256

_KEPT = tuple(
    1.0 - step / 100 for step in range(81)
)  # the shares of the widest range that the sweeps try, the widest first

Floats = npt.NDArray[np.float64]


def minmax(seen: RunningRange) -> Range:
    """Return the extremes."""
    return seen.extremes()


def percentile(seen: RunningRange, kept: float = PERCENTILE) -> Range:
    """Return the range that holds `kept` percent of all values, never wider than the extremes.

    Source: Wu et al., "Integer Quantization for Deep Learning Inference", arXiv:2004.09602, section 5.2.
    """
    widest = seen.extremes()
    outside = (100.0 - kept) / 200.0 * float(seen.counts.sum())
    below = np.cumsum(seen.counts)
    edges = seen.edges()
    low = edges[int(np.searchsorted(below, outside, side="right"))]
    high = edges[int(np.searchsorted(below, float(below[-1]) - outside, side="left")) + 1]
    return Range(min(max(float(low), widest.low), 0.0), max(min(float(high), widest.high), 0.0))


def mse(seen: RunningRange) -> Range:
    """Return the range that loses the least energy to rounding and saturation together.

    The two ends are swept in turn, twice, since most activations have one long tail.

    Source: Nagel et al., "A White Paper on Neural Network Quantization", arXiv:2106.08295, section 3.1.
    """
    found = seen.extremes()
    values, counts = _occupied(seen)
    for end in ("high", "low", "high", "low"):
        found = min(_narrowed(seen.extremes(), found, end), key=lambda limit: _energy_lost(values, counts, limit))
    return found


def entropy(seen: RunningRange) -> Range:
    """Return the range whose 256 levels keep the distribution of the values best, by Kullback-Leibler divergence.

    Both ends are drawn in by the same share. What saturates counts to the outermost bins of the distribution that is
    to be kept, and is missing in the quantized one. The bin that holds zero is left out: zero is exact, and after a
    Relu it would drown everything else.

    Source: Migacz, "8-bit Inference with TensorRT", GTC 2017; ONNX Runtime's entropy calibrator does the same.
    """
    widest = seen.extremes()
    return min(
        (Range(widest.low * kept, widest.high * kept) for kept in _KEPT), key=lambda limit: _divergence(seen, limit)
    )


CALIBRATORS: Mapping[str, Callable[[RunningRange], Range]] = {
    "minmax": minmax,
    "percentile": percentile,
    "mse": mse,
    "entropy": entropy,
}
"""By the name that a scheme gives."""


def _narrowed(widest: Range, found: Range, end: str) -> list[Range]:
    if end == "high":
        return [Range(found.low, widest.high * kept) for kept in _KEPT]
    return [Range(widest.low * kept, found.high) for kept in _KEPT]


def _occupied(seen: RunningRange) -> tuple[Floats, Floats]:
    """Return the middles of the bins that hold values, and how many each holds."""
    (indices,) = np.nonzero(seen.counts)
    width = 2.0 * seen.reach / BINS
    middles: Floats = (indices.astype(np.float64) + 0.5) * width - seen.reach
    return middles, seen.counts[indices].astype(np.float64)


def _energy_lost(values: Floats, counts: Floats, limit: Range) -> float:
    """Return the squared error of quantizing values to 256 levels over a range that holds zero."""
    scale = (limit.high - limit.low) / (LEVELS - 1)
    if scale == 0.0:
        return float(counts @ np.square(values))
    lowest = np.rint(limit.low / scale)
    rounded = np.clip(np.rint(values / scale), lowest, lowest + LEVELS - 1) * scale
    return float(counts @ np.square(values - rounded))


def _divergence(seen: RunningRange, limit: Range) -> float:
    """Return the divergence of what a range keeps of the distribution from the whole distribution."""
    scale = 2.0 * seen.reach / BINS
    if scale == 0.0:
        return 0.0
    middle = BINS // 2
    first = max(middle + int(np.floor(limit.low / scale)), 0)
    last = min(middle + int(np.ceil(limit.high / scale)), BINS)
    if last - first <= LEVELS:  # finer than the histogram: nothing can be told
        return np.inf if limit != seen.extremes() else 0.0
    counts = seen.counts.astype(np.float64)
    counts[middle] = 0.0
    kept = counts[first:last]
    whole = kept.copy()
    whole[0] += counts[:first].sum()
    whole[-1] += counts[last:].sum()
    return _kullback_leibler(whole, _through_levels(kept))


def _through_levels(counts: Floats) -> Floats:
    """Spread what falls into each of 256 levels evenly over the bins of the level that hold anything."""
    starts = np.arange(LEVELS) * counts.size // LEVELS
    sizes = np.diff(np.append(starts, counts.size))
    occupied = counts > 0.0
    total, bins = np.add.reduceat(counts, starts), np.add.reduceat(occupied.astype(np.float64), starts)
    mean = np.divide(total, bins, out=np.zeros(LEVELS), where=bins > 0.0)
    return np.repeat(mean, sizes) * occupied


def _kullback_leibler(whole: Floats, quantized: Floats) -> float:
    """Return sum p log(p / q) of two histograms; what only the first has is charged as if q were a millionth there."""
    if whole.sum() == 0.0 or quantized.sum() == 0.0:
        return 0.0
    (there,) = np.nonzero(whole)
    p = whole[there] / whole.sum()
    q = np.maximum(quantized[there] / quantized.sum(), 1e-6)
    return float(p @ np.log(p / q))
