"""Intervals and percentiles that say how sure they are.

Percentiles follow the early stopping of MLPerf LoadGen: an upper bound that holds with 99 % confidence, which exists
only from a minimum number of runs on. Intervals are 95 %.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from edgefuse.errors import MeasureError

Floats: TypeAlias = npt.NDArray[np.float64]

PERCENTILE_ERROR = 0.01
Z95 = 1.959963984540054
_CHUNK_ELEMENTS = 4_000_000


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval.

    Attributes:
        marked: whether it was measured on a busy machine: it is wider for that, and not to be trusted.
    """

    value: float
    low: float
    high: float
    marked: bool = False

    def reaching(self, *others: float) -> Interval:
        """Return it widened until it holds other estimates of the same."""
        return replace(self, low=min((self.low, *others)), high=max((self.high, *others)))


@dataclass(frozen=True)
class Drop:
    """How much of a metric was lost: the mean of reference - candidate, with its 95 % interval."""

    drop: float
    low: float
    high: float


def median(rows: Floats) -> Floats:
    """Return the median of each row; rows: [resamples, n]."""
    result: Floats = np.median(rows, axis=-1)
    return result


def mean(rows: Floats) -> Floats:
    """Return the mean of each row; rows: [resamples, n]."""
    result: Floats = np.mean(rows, axis=-1)
    return result


def bootstrap(
    values: Floats,
    statistic: Callable[[Floats], Floats] = median,
    *,
    resamples: int = 2000,
    block: int = 1,
    seed: int = 0,
) -> Interval:
    """Return a statistic with its 95 % percentile bootstrap interval.

    Blocks of neighbours are drawn as a whole (circular block bootstrap, Politis and Romano 1992), so that the interval
    of an autocorrelated series is not too narrow. Few blocks vary less than what they are drawn from: the percentiles
    lie further out, as a t interval's do (expanded percentiles, Hesterberg, The American Statistician, 2015).

    Args:
        values: [n], in the order in which they were measured.
        statistic: maps rows [resamples, n] to [resamples].
        resamples: how many samples are drawn.
        block: see `block_length`; 1 is the ordinary bootstrap.
        seed: the same seed gives the same interval.

    Raises:
        MeasureError: if there are no values or one is not finite.
    """
    series = _finite(values, "a bootstrap")
    n = len(series)
    blocks = math.ceil(n / block)
    rng = np.random.default_rng(seed)
    rows_at_once = max(1, _CHUNK_ELEMENTS // n)
    estimates: list[Floats] = []
    for first in range(0, resamples, rows_at_once):
        rows = min(rows_at_once, resamples - first)
        starts = rng.integers(0, n, (rows, blocks, 1))
        index = (starts + np.arange(block)).reshape(rows, -1)[:, :n] % n
        estimates.append(statistic(series[index]))
    tail = _expanded_tail(n / block)
    low, high = np.quantile(np.concatenate(estimates), [tail, 1 - tail])
    return Interval(float(statistic(series[None])[0]), float(low), float(high))


def _expanded_tail(blocks: float) -> float:
    """Return the share that a 95 % interval leaves out at either end when so many blocks were drawn from."""
    free = max(blocks - 1, 2.0)
    z, square = Z95, Z95 * Z95
    # Student's t from the normal quantile: Cornish and Fisher, in Abramowitz and Stegun, 26.7.5.
    first = z * (square + 1) / 4
    second = z * (5 * square**2 + 16 * square + 3) / 96
    third = z * (3 * square**3 + 19 * square**2 + 17 * square - 15) / 384
    t = z + first / free + second / free**2 + third / free**3
    return 0.5 * math.erfc(t * math.sqrt((free + 1) / free) / math.sqrt(2))


def block_length(values: Floats) -> int:
    """Return the block length that a bootstrap of this series needs: 1 unless neighbours are alike.

    Where the autocorrelation at lag 1 is significant, it is twice the length that Carlstein (Annals of Statistics,
    1986) derives for the mean of a first-order autoregressive series, at most a quarter of the series: load comes and
    goes in bursts, which are alike for longer than such a series, and the interval of their median needs more.
    """
    n = len(values)
    centred = values - values.mean()
    power = float(centred @ centred)
    if n < 10 or power == 0:
        return 1
    rho = float(centred[1:] @ centred[:-1]) / power
    if rho < 2 / math.sqrt(n):
        return 1
    rho = min(rho, 0.99)
    length = float((6 * n * (rho / (1 - rho * rho)) ** 2) ** (1 / 3))
    return max(1, min(n // 4, round(2 * length)))


def percentile(values: Floats, fraction: float) -> float | None:
    """Return an upper bound of a percentile that holds with 99 % confidence, or None for too few values.

    This is the estimate of MLPerf's early stopping: the t-th largest value, with the largest t whose binomial tail
    stays below 1 %. It exists from 64 values on for p90, 662 for p99 and 6,636 for p99.9. `MeasureError` if a value is
    not finite.
    """
    series = np.sort(_finite(values, "a percentile"))
    discarded = _discarded(len(series), fraction)
    return float(series[len(series) - discarded]) if discarded else None


def _discarded(n: int, fraction: float) -> int:
    """Return the largest t for which P(Binomial(n, 1 - fraction) <= t) <= 1 %, or 0."""
    odds = math.log((1 - fraction) / fraction)
    k = np.arange(1, min(n, math.ceil(n * (1 - fraction)) + 1) + 1)
    log_mass = n * math.log(fraction) + np.concatenate([[0.0], np.cumsum(np.log((n - k + 1) / k) + odds)])
    below = np.cumsum(np.exp(log_mass)) <= PERCENTILE_ERROR
    return max(0, int(below.sum()) - 1)


def paired_drop(reference_scores: Floats, candidate_scores: Floats, groups: npt.ArrayLike | None = None) -> Drop:
    """Return the mean of reference - candidate over the same items, with its 95 % interval.

    For scores that are right or wrong it is the score interval for matched pairs of Tango (Statistics in Medicine,
    1998), which keeps a width where the two never disagree; for others the normal interval of the mean difference.
    Items of one of several groups count as one draw: the first interval is that of as many items as would be as sure
    (Rao and Scott, Biometrics, 1992), the second has the error of group sums.

    Args:
        reference_scores: float [items].
        candidate_scores: of the same items.
        groups: int [items]; each item is its own if None.

    Raises:
        MeasureError: if the lengths differ, there are no items or a score is not finite.
    """
    if reference_scores.shape != candidate_scores.shape:
        raise MeasureError(
            "a paired difference needs the scores of the same items",
            got=f"{candidate_scores.shape} scores",
            expected=f"{reference_scores.shape}",
        )
    difference = _finite(reference_scores, "a drop") - _finite(candidate_scores, "a drop")
    n, drop = len(difference), float(difference.mean())
    alone = clustered_error((difference - drop) / n, np.arange(n))
    error = alone if groups is None else clustered_error((difference - drop) / n, groups) or alone
    if np.isin(difference, (-1.0, 0.0, 1.0)).all():
        share = min(1.0, (alone / error) ** 2) if error else 1.0
        lost, won = share * int((difference > 0).sum()), share * int((difference < 0).sum())
        high = _score_bound(lost, won, share * n)
        return Drop(drop, min(drop, -_score_bound(won, lost, share * n)), max(drop, high))
    if n == 1:
        raise MeasureError("an interval of a difference needs at least two items", got="1")
    return Drop(drop, drop - Z95 * error, drop + Z95 * error)


def draws(
    items: int, groups: npt.ArrayLike | None, count: int, rng: np.random.Generator
) -> Iterator[npt.NDArray[np.intp]]:
    """Yield the items of as many bootstrap samples, whole groups at a time.

    Args:
        items: how many there are.
        groups: int [items]; each item is its own if None.
        count: of samples.
        rng: draws them.
    """
    if groups is None:
        yield from (rng.integers(0, items, items) for _ in range(count))
        return
    numbers = np.unique(groups, return_inverse=True)[1]
    members = np.split(np.argsort(numbers, kind="stable"), np.cumsum(np.bincount(numbers))[:-1])
    for _ in range(count):
        yield np.concatenate([members[one] for one in rng.integers(0, len(members), len(members))])


def clustered_error(parts: Floats, groups: npt.ArrayLike) -> float:
    """Return the standard error of a sum whose parts depend on each other within groups; 0 for a single group.

    It is that of Liang and Zeger (Biometrika, 1986), for as many groups as there are.

    Args:
        parts: [items], with a mean of zero.
        groups: int [items].
    """
    sums = np.bincount(np.unique(groups, return_inverse=True)[1], parts)
    return math.sqrt(len(sums) / (len(sums) - 1) * float(sums @ sums)) if len(sums) > 1 else 0.0


def _score_bound(lost: float, won: float, n: float) -> float:
    """Return the upper bound of Tango's score interval for (lost - won) / n."""
    low, high = (lost - won) / n, 1.0
    for _ in range(50):
        bound = (low + high) / 2
        linear = (2 * n - lost + won) * bound - lost - won
        constant = -won * bound * (1 - bound)
        rate = (math.sqrt(linear * linear - 8 * n * constant) - linear) / (4 * n)  # of `won`, if `bound` were true
        variance = n * (2 * rate + bound * (1 - bound))
        inside = (n * bound - lost + won) ** 2 <= Z95 * Z95 * max(variance, 0.0)
        low, high = (bound, high) if inside else (low, bound)
    return high


def _finite(values: Floats, purpose: str) -> Floats:
    series = np.asarray(values, np.float64)
    if series.ndim != 1 or not len(series):
        raise MeasureError(f"{purpose} needs a series of values", got=f"an array of shape {series.shape}")
    if not np.isfinite(series).all():
        raise MeasureError(f"{purpose} needs finite values", got=f"{series[~np.isfinite(series)][0]}")
    return series
