from __future__ import annotations

from random import Random

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edgefuse.errors import QuantizeError
from edgefuse.quantize.calibration.calibrators import percentile
from edgefuse.quantize.calibration.ranges import BINS, Range, RunningRange

# Every float32 there is: subnormal ones, zeros of both signs and the largest included.
VALUES = st.one_of(st.floats(-1e6, 1e6, width=32), st.floats(width=32, allow_nan=False, allow_infinity=False))
SAMPLES = st.lists(st.lists(VALUES, min_size=1, max_size=20), min_size=1, max_size=6)
TINY = float(np.finfo(np.float32).tiny)
# Found by random seeds: beside a large value, the product of a small one and the scale of the bins was zero.
SUBNORMAL = [[2048.0, -1.4e-45]]
SMALL = [[3e38, -1.2e-38]]


def gathered(samples: list[list[float]], dtype: npt.DTypeLike = np.float32) -> RunningRange:
    running = RunningRange("x")
    for sample in samples:
        running.update(np.array(sample, dtype))
    return running


def normal(value: float) -> float:
    return value if abs(value) >= TINY else 0.0


@given(SAMPLES)
@example(SUBNORMAL)
def test_extremes_are_exact_and_hold_zero(samples: list[list[float]]) -> None:
    everything = [normal(value) for sample in samples for value in sample]
    assert gathered(samples).extremes() == Range(min(*everything, 0.0, 0.0), max(*everything, 0.0, 0.0))


@given(SAMPLES)
@example(SUBNORMAL)
@example(SMALL)
def test_every_value_is_counted_and_a_percentile_never_exceeds_the_extremes(samples: list[list[float]]) -> None:
    running = gathered(samples)
    assert running.counts.sum() == sum(map(len, samples))
    widest, inner = running.extremes(), percentile(running, 50.0)
    assert widest.low <= inner.low <= 0.0 <= inner.high <= widest.high


@given(SAMPLES, st.randoms(use_true_random=False))
@example(SUBNORMAL, Random(0))
@example(SMALL, Random(0))
@example([[-5e-324, 1.0 - 2**-24], [3.4028234e38, -3.4028234e38], [-0.0, 1e-30]], Random(0))
def test_neither_order_nor_grouping_matters(samples: list[list[float]], random: Random) -> None:
    everything = [[value] for sample in samples for value in sample]
    random.shuffle(everything)
    one, other = gathered(samples), gathered(everything)
    assert (one.low, one.high, one.reach) == (other.low, other.high, other.reach)
    assert np.array_equal(one.counts, other.counts)


def test_every_value_lies_in_the_bin_of_its_sign() -> None:
    for values in ([1e-30, -1e-30], [3e38, -1e-30], [TINY, -TINY, 3e38]):
        running = gathered([values])
        below, above = running.counts[: BINS // 2].sum(), running.counts[BINS // 2 :].sum()
        assert (below, above) == (sum(value < 0 for value in values), sum(value >= 0 for value in values))


def test_what_is_subnormal_counts_as_zero_in_every_mode_of_the_processor() -> None:
    running = gathered([[-1e-45, 1e-40, -1e-39]])
    assert (running.extremes(), running.reach) == (Range(0.0, 0.0), 0.0)
    assert running.counts[BINS // 2] == running.counts.sum() == 3


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_types_fall_where_float32_falls(dtype: npt.DTypeLike) -> None:
    samples = [[0.0009765625, -6e-8, 0.0], [0.5, -0.25]]
    one, other = gathered(samples, dtype), gathered(samples)
    assert one.reach == other.reach
    assert np.array_equal(one.counts, other.counts)


@pytest.mark.parametrize("beyond", [3.5e38, -1e300])
def test_what_scales_cannot_express_is_refused(beyond: float) -> None:
    with pytest.raises(QuantizeError, match="not finite in 'x': got values from"):
        RunningRange("x").update(np.array([0.0, beyond]))


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
