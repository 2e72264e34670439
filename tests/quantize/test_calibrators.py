"""Each calibrator against what it promises, on distributions whose best range is known."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edgefuse.quantize.calibration.calibrators import CALIBRATORS, LEVELS, entropy, mse
from edgefuse.quantize.calibration.ranges import Range, RunningRange
from edgefuse.quantize.onnx.static import affine

VALUES = st.one_of(st.floats(-1e6, 1e6, width=32), st.floats(width=32, allow_nan=False, allow_infinity=False))
SAMPLES = st.lists(VALUES, min_size=1, max_size=50)


def seen(values: npt.NDArray[np.float32]) -> RunningRange:
    running = RunningRange("x")
    for part in np.array_split(values, 4):
        running.update(part)
    return running


def error(values: npt.NDArray[np.float32], limit: Range) -> float:
    """Return the mean squared error of quantizing the very values, not their histogram."""
    scale = (limit.high - limit.low) / (LEVELS - 1)
    lowest = np.rint(limit.low / scale)
    rounded = np.clip(np.rint(values / scale), lowest, lowest + LEVELS - 1) * scale
    return float(np.square(values - rounded).mean())


@pytest.mark.parametrize("name", CALIBRATORS)
@given(SAMPLES)
@example([2048.0, -1.4e-45])
@example([1e-38, -1.2e-38, 0.0])
@example([3.4028234e38, -3.4028234e38, 1e-30])
def test_a_range_holds_zero_and_lies_within_the_extremes(name: str, samples: list[float]) -> None:
    running = seen(np.array(samples, np.float32))
    widest, found = running.extremes(), CALIBRATORS[name](running)
    assert widest.low <= found.low <= 0.0 <= found.high <= widest.high
    for signed in (False, True):
        scale, zero = affine(found, signed)
        assert np.isfinite(scale)
        assert np.float32(scale) >= np.finfo(np.float32).tiny  # a subnormal scale is zero for some runtimes
        assert -128 * signed <= zero <= 255 - 128 * signed


@pytest.mark.parametrize("name", CALIBRATORS)
def test_a_constant_zero_has_the_range_zero(name: str) -> None:
    assert CALIBRATORS[name](seen(np.zeros(9, np.float32))) == Range(0.0, 0.0)


def test_mse_is_as_good_as_the_best_of_a_fine_search() -> None:
    values = np.random.default_rng(0).standard_t(3, 50_000).astype(np.float32)
    best = min(error(values, Range(-end, end)) for end in np.linspace(2.0, 40.0, 200))
    assert error(values, mse(seen(values))) <= best
    assert error(values, mse(seen(values))) < 0.95 * error(values, seen(values).extremes())


def test_mse_draws_in_the_one_end_that_has_a_tail() -> None:
    values = np.concatenate([np.linspace(-1, 1, 100_000), [40.0]]).astype(np.float32)
    found = mse(seen(values))
    assert found.low == pytest.approx(-1.0, abs=0.06)
    assert found.high < 36.0


def test_evenly_spread_values_are_not_cut() -> None:
    values = np.linspace(0, 1, 200_000).astype(np.float32)
    for name in ("mse", "entropy"):
        assert CALIBRATORS[name](seen(values)).high > 0.98


def test_entropy_cuts_off_an_outlier_and_ignores_the_zeros_of_a_relu() -> None:
    values = np.abs(np.random.default_rng(0).standard_normal(100_000)).astype(np.float32)
    values[-1] = 50.0
    without = entropy(seen(values))
    assert without.high < 25.0
    assert entropy(seen(np.concatenate([values, np.zeros(900_000, np.float32)]))) == without
