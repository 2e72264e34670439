from __future__ import annotations

from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefuse.errors import QuantizeError
from edgefuse.quantize.calibrators import percentile
from edgefuse.quantize.ranges import BINS, Range, RunningRange

SAMPLES = st.lists(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=20), min_size=1, max_size=6)


def gathered(samples: list[list[float]]) -> RunningRange:
    running = RunningRange("x")
    for sample in samples:
        running.update(np.array(sample, np.float32))
    return running


@given(SAMPLES)
def test_extremes_are_exact_and_hold_zero(samples: list[list[float]]) -> None:
    everything = [value for sample in samples for value in sample]
    assert gathered(samples).extremes() == Range(min(*everything, 0.0, 0.0), max(*everything, 0.0, 0.0))


@given(SAMPLES)
def test_every_value_is_counted_and_a_percentile_never_exceeds_the_extremes(samples: list[list[float]]) -> None:
    running = gathered(samples)
    assert running.counts.sum() == sum(map(len, samples))
    widest, inner = running.extremes(), percentile(running, 50.0)
    assert widest.low <= inner.low <= 0.0 <= inner.high <= widest.high


@given(SAMPLES, st.randoms(use_true_random=False))
def test_neither_order_nor_grouping_matters(samples: list[list[float]], random: Random) -> None:
    everything = [[value] for sample in samples for value in sample]
    random.shuffle(everything)
    one, other = gathered(samples), gathered(everything)
    assert (one.low, one.high, one.reach) == (other.low, other.high, other.reach)
    assert np.array_equal(one.counts, other.counts)


def test_without_counting_the_extremes_are_kept_alone() -> None:
    running = RunningRange("x", counting=False)
    running.update(np.array([-1.0, 7.0], np.float32))
    assert (running.extremes(), running.counts.sum()) == (Range(-1.0, 7.0), 0)


@given(st.integers(0, 1000))
def test_a_percentile_is_right_to_a_bin(seed: int) -> None:
    values = np.random.default_rng(seed).standard_normal(20_000).astype(np.float32)
    running = RunningRange("x")
    for part in np.split(values, 20):
        running.update(part)
    found, width = percentile(running, 99.0), 2 * running.reach / BINS
    assert found.low == pytest.approx(np.percentile(values, 0.5), abs=2 * width)
    assert found.high == pytest.approx(np.percentile(values, 99.5), abs=2 * width)


def test_an_outlier_does_not_widen_the_percentile() -> None:
    running = RunningRange("x")
    running.update(np.linspace(0, 1, 100_000, dtype=np.float32))
    running.update(np.array([1000.0], np.float32))
    assert running.extremes().high == 1000.0
    assert percentile(running).high < 1.5


def test_the_size_does_not_grow() -> None:
    running = RunningRange("x")
    for exponent in range(30):
        running.update(np.full(1000, 2.0**exponent, np.float32))
    assert running.counts.shape == (BINS,)
    assert running.counts.sum() == 30_000


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(QuantizeError, match="calibration found numbers that are not finite in 'x'"):
        RunningRange("x").update(np.array([0.0, bad], np.float32))


def test_nothing_seen_is_an_error() -> None:
    with pytest.raises(QuantizeError, match="calibration saw no values of 'x'"):
        RunningRange("x").extremes()
