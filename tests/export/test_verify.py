from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefuse.bundle.manifest import Tolerance
from edgefuse.errors import ExportError
from edgefuse.export.verify import compare

ONES = {"y": np.ones((1, 4), np.float32)}


def test_equal_answers_agree() -> None:
    agreement = compare(ONES, ONES, Tolerance())
    assert agreement.ok
    assert agreement.max_abs_error == 0.0
    assert agreement.snr_db == math.inf


def test_the_float_tolerance_grows_with_the_largest_value() -> None:
    big = {"y": np.array([[1000.0, 0.0]], np.float32)}
    near = {"y": np.array([[1000.0, 0.09]], np.float32)}
    assert compare(big, near, Tolerance()).ok
    far = {"y": np.array([[1000.0, 0.2]], np.float32)}
    assert compare(big, far, Tolerance()).reason == "output 'y' is off by 0.2, more than 0.1"


def test_a_signal_to_noise_ratio_judges_quantized_files() -> None:
    noisy = {"y": ONES["y"] + np.array([0.1, -0.1, 0.1, -0.1], np.float32)}
    assert compare(ONES, noisy, Tolerance(min_snr_db=19.9)).ok
    agreement = compare(ONES, noisy, Tolerance(min_snr_db=25.0))
    assert agreement.reason == "a signal-to-noise ratio of 20.0 dB, below 25.0 dB"
    assert agreement.snr_db == pytest.approx(20.0, abs=1e-4)


def test_nan_fails_whatever_the_tolerance() -> None:
    broken = {"y": np.array([[1.0, np.nan, np.inf, 1.0]], np.float32)}
    agreement = compare(ONES, broken, Tolerance(min_snr_db=-100.0))
    assert not agreement.ok
    assert agreement.reason == "output 'y' holds 2 numbers that are NaN or infinite"
    assert agreement.max_abs_error == math.inf


def test_another_shape_fails() -> None:
    agreement = compare(ONES, {"y": np.ones((1, 3), np.float32)}, Tolerance())
    assert agreement.reason == "output 'y' has the shape [1, 3] instead of [1, 4]"


def test_other_names_are_an_error() -> None:
    with pytest.raises(ExportError, match="other outputs than the stage: got z, expected y"):
        compare(ONES, {"z": ONES["y"]}, Tolerance())


@given(st.floats(1e-3, 1e3), st.floats(-1.0, 1.0))
def test_the_ratio_does_not_depend_on_the_unit(unit: float, error: float) -> None:
    signal = {"y": np.linspace(1, 2, 8)}
    noisy = {"y": signal["y"] + error}
    scaled = compare({"y": signal["y"] * unit}, {"y": noisy["y"] * unit}, Tolerance())
    assert scaled.snr_db == pytest.approx(compare(signal, noisy, Tolerance()).snr_db, abs=1e-2) or error < 1e-9
