from __future__ import annotations

import numpy as np
import pytest

from edgefuse.errors import MeasureError
from edgefuse.measure.metrics import Metric, Outputs, names

LOGITS = np.array([[2, 1, 0], [0, 3, 1], [1, 0, 5], [4, 0, 1]], np.float32)
TARGETS = np.array([0, 1, 0, 0])


def test_accuracy_counts_the_largest_logit() -> None:
    metric = Metric("accuracy")
    assert metric.scores(LOGITS, TARGETS).tolist() == [1, 1, 0, 1]
    assert metric.aggregate(LOGITS, TARGETS) == 0.75


def test_macro_f1_is_the_mean_over_the_classes_that_occur() -> None:
    # Class 0: precision 1, recall 2/3; class 1: 1; class 2 is predicted once, wrongly: 0.
    assert Metric("macro_f1").aggregate(LOGITS, TARGETS) == pytest.approx((0.8 + 1 + 0) / 3)
    assert Metric("macro_f1").aggregate(LOGITS[:2], TARGETS[:2]) == 1


def test_errors_of_values_are_negative_so_that_greater_is_better() -> None:
    outputs, targets = np.array([[1.0, 2.0], [0.0, 0.0]]), np.array([[1.0, 4.0], [0.0, 0.0]])
    assert Metric("negative_mse").scores(outputs, targets).tolist() == [-2, 0]
    assert Metric("negative_mae").aggregate(outputs, targets) == -0.5


def test_values_of_one_number_take_flat_targets() -> None:
    assert Metric("negative_mae").scores(np.array([[1.0], [2.0]]), np.array([1.5, 2.0])).tolist() == [-0.5, 0]


@pytest.mark.parametrize("name", names())
def test_a_worse_candidate_has_a_positive_drop(name: str) -> None:
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 3, 200)
    truth = np.eye(3)[classes] * 4
    targets = classes if name in ("accuracy", "macro_f1") else truth
    worse = truth + rng.normal(0, 3, truth.shape)
    drop = Metric(name).drop(truth, worse, targets)
    assert 0 < drop.low <= drop.drop <= drop.high
    assert Metric(name).drop(truth, truth, targets).drop == 0


@pytest.mark.parametrize(
    ("outputs", "targets", "message"),
    [
        (
            np.array([[0, np.nan], [1, 0]]),
            np.array([0, 1]),
            "the outputs of 1 of 2 items are NaN or infinite: got item 0",
        ),
        (np.array([[np.inf, 0]]), np.array([0]), "NaN or infinite"),
        (np.zeros((2, 3)), np.array([0, 3]), "a target is not a class: got 3, expected 0 to 2"),
        (np.zeros((2, 3)), np.array([0, -1]), "a target is not a class: got -1"),
        (
            np.zeros((2, 3)),
            np.array([0.0, 1.0]),
            "needs logits and class indices: got outputs .2, 3. and targets float64",
        ),
        (np.zeros((2, 3)), np.array([0]), "do not go together"),
        (np.zeros((0, 3)), np.zeros(0, int), "at least one"),
    ],
)
def test_what_cannot_be_scored_is_an_error(outputs: Outputs, targets: Outputs, message: str) -> None:
    with pytest.raises(MeasureError, match=message):
        Metric("accuracy").scores(outputs, targets)


def test_values_of_another_size_are_an_error() -> None:
    with pytest.raises(MeasureError, match="finite targets like the outputs"):
        Metric("negative_mse").scores(np.zeros((2, 3)), np.zeros((2, 2)))


def test_an_unknown_metric_names_the_known_ones() -> None:
    with pytest.raises(MeasureError, match="got 'f1', expected accuracy or macro_f1 or negative_mae or negative_mse"):
        Metric("f1")
