from __future__ import annotations

import numpy as np
import pytest

from edgefuse.bundle.spec import ClassOutput, ValuesOutput
from edgefuse.compiler.metrics.metric import Array, Metric
from edgefuse.compiler.metrics.named import metric_of
from edgefuse.errors import MeasureError, ModelError

LOGITS = np.array([[2, 1, 0], [0, 3, 1], [1, 0, 5], [4, 0, 1]], np.float32)
TARGETS = np.array([0, 1, 0, 0])
CLASSES = ClassOutput(labels=("a", "b", "c"))
VALUES = ValuesOutput(labels=("x", "y"))


def of_classes(name: str) -> Metric:
    return metric_of(CLASSES, name)


def of_values(name: str) -> Metric:
    return metric_of(VALUES, name)


def test_accuracy_counts_the_largest_logit() -> None:
    metric = of_classes("accuracy")
    assert metric.rows(LOGITS, TARGETS)[0].tolist() == [1, 1, 0, 1]
    assert metric.aggregate(LOGITS, TARGETS) == 0.75
    assert of_classes("accuracy@2").aggregate(LOGITS, TARGETS) == 1
    tied = np.zeros((3, 3), np.float32)  # as argmax does, the first of equal ones is taken
    assert of_classes("accuracy@2").rows(tied, np.array([0, 1, 2]))[0].tolist() == [1, 1, 0]


def test_macro_f1_is_the_mean_over_the_classes_that_occur() -> None:
    # Class 0: precision 1, recall 2/3; class 1: 1; class 2 is predicted once, wrongly: 0.
    assert of_classes("macro_f1").aggregate(LOGITS, TARGETS) == pytest.approx((0.8 + 1 + 0) / 3)
    assert of_classes("macro_f1").aggregate(LOGITS[:2], TARGETS[:2]) == 1
    assert of_classes("macro_precision").aggregate(LOGITS, TARGETS) == pytest.approx((1 + 1 + 0) / 3)
    assert of_classes("macro_recall").aggregate(LOGITS, TARGETS) == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert of_classes("balanced_accuracy").aggregate(LOGITS, TARGETS) == pytest.approx((2 / 3 + 1) / 2)


def test_errors_are_in_their_own_sign_and_unit_and_a_loss_is_positive_all_the_same() -> None:
    outputs, targets = np.array([[1.0, 2.0], [0.0, 0.0]]), np.array([[1.0, 4.0], [0.0, 0.0]])
    assert of_values("mse").rows(outputs, targets)[0].tolist() == [2, 0]
    assert of_values("rmse").aggregate(outputs, targets) == 1
    assert of_values("mae").aggregate(outputs, targets) == 0.5
    for name in ("mae", "mse", "rmse"):
        metric = of_values(name)
        assert metric.lost(metric.aggregate(targets, targets), metric.aggregate(outputs, targets)) > 0


def test_the_old_names_of_errors_are_read_and_the_new_one_is_told(caplog: pytest.LogCaptureFixture) -> None:
    for old in ("negative_mae", "negative_mse"):
        metric = of_values(old)
        assert metric.name == old.removeprefix("negative_")
        assert metric.lower_is_better
        assert f"the metric '{old}' is called '{metric.name}'" in caplog.text


def test_values_of_one_number_take_flat_targets() -> None:
    found = metric_of(ValuesOutput(labels=("mm",)), "mae").rows(np.array([[1.0], [2.0]]), np.array([1.5, 2.0]))
    assert found[0].tolist() == [0.5, 0]


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
def test_what_cannot_be_scored_is_an_error(outputs: Array, targets: Array, message: str) -> None:
    with pytest.raises(MeasureError, match=message):
        of_classes("accuracy").rows(outputs, targets)


def test_values_of_another_size_are_an_error() -> None:
    with pytest.raises(MeasureError, match="finite targets like the outputs"):
        of_values("mse").rows(np.zeros((2, 3)), np.zeros((2, 2)))


@pytest.mark.parametrize("name", ["f1", "accuracy@0", "macro_f1@3", "recall@10", "", "accuracy@"])
def test_an_unknown_metric_names_the_known_ones(name: str) -> None:
    if not name:
        assert metric_of(CLASSES, name).name == "accuracy"
        return
    with pytest.raises(ModelError) as caught:
        of_classes(name)
    assert str(caught.value) == (
        f"there is no such metric of the output 'logits' (classes): got '{name}', expected accuracy or accuracy@k or "
        "agreement or auroc or average_precision or balanced_accuracy or divergence or macro_f1 or macro_precision or "
        "macro_recall, or your own 'module:callable'."
    )
