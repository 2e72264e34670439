from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefuse.bundle.manifest import Tolerance
from edgefuse.measure.agreement import agreement

ONES = np.ones((1, 4), np.float32)


def test_equal_answers_agree_without_bound() -> None:
    found = agreement([({"y": ONES}, {"y": ONES})], Tolerance())
    assert (found.ok, found.max_abs_error, found.snr_db, found.reason) == (True, 0.0, math.inf, "")


@given(st.floats(0, 1e-3), st.floats(0.1, 100))
def test_a_float_file_is_held_to_the_size_of_its_output(error: float, scale: float) -> None:
    reference = np.array([[scale, 0.0]])
    found = agreement([({"y": reference}, {"y": np.array([[scale, error]])})], Tolerance())
    assert found.ok == (error <= 1e-4 + 1e-4 * scale)


def test_a_quantized_file_is_held_to_its_signal_to_noise_ratio_over_all_cases() -> None:
    noisy, exact = ({"y": ONES}, {"y": ONES * np.float32(1.1)}), ({"y": ONES}, {"y": ONES})
    assert agreement([noisy], Tolerance(min_snr_db=19)).snr_db == pytest.approx(20, abs=1e-4)
    assert agreement([noisy, exact], Tolerance(min_snr_db=22.9)).ok
    failed = agreement([noisy], Tolerance(min_snr_db=25))
    assert (failed.ok, failed.reason) == (False, "a signal-to-noise ratio of 20.0 dB, below 25.0 dB")


def test_one_bad_case_is_enough_for_a_float_file() -> None:
    good, bad = ({"y": ONES}, {"y": ONES}), ({"y": ONES}, {"y": ONES + 1})
    found = agreement([good, bad, good], Tolerance())
    assert (found.ok, found.reason) == (False, "output 'y' is off by 1, more than 0.0002")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ({}, "output 'y' is missing"),
        ({"y": ONES[:, :2]}, "output 'y' has the shape [1, 2] instead of [1, 4]"),
        ({"y": ONES * np.float32(np.nan)}, "output 'y' holds 4 numbers that are NaN or infinite"),
    ],
)
@pytest.mark.parametrize("tolerance", [Tolerance(), Tolerance(min_snr_db=-100)])
def test_unusable_answers_never_agree(answer: dict[str, np.ndarray], reason: str, tolerance: Tolerance) -> None:
    found = agreement([({"y": ONES}, answer)], tolerance)
    assert (found.ok, found.reason, found.max_abs_error, found.snr_db) == (False, reason, math.inf, -math.inf)


def test_the_worst_output_is_told_beside_the_ratio_of_all() -> None:
    mask, features = np.ones((1, 64), np.float32), 0.1 * ONES
    noisy = features * np.float32(1.1)
    found = agreement([({"mask": mask, "y": features}, {"mask": mask, "y": noisy})], Tolerance())
    assert found.snr_db > 50
    assert found.lowest_db == pytest.approx(20, abs=1e-3)
    silent = agreement([({"mask": mask, "y": 0 * ONES}, {"mask": mask, "y": 1e-6 * ONES})], Tolerance())
    assert silent.lowest_db == silent.snr_db  # all that differs is within the tolerance
