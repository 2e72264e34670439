"""Metrics of fidelity: answers held against the reference's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon  # type: ignore[import-untyped]

from edgefuse.bundle import spec
from edgefuse.compiler.metrics.named import metric_of

CLASSES = spec.ClassOutput(labels=("a", "b", "c"))
LABELS = spec.LabelsOutput(labels=("a", "b", "c"), threshold=0.8)
VALUES = spec.ValuesOutput(labels=("x", "y"))
REFERENCE = np.array([[1.0, 0.0, 0.0], [0.0, 2.0, 1.0]], np.float32)
OTHERS = np.array([[0.5, 0.4, 0.0], [0.0, 1.0, 3.0]], np.float32)


def test_agreement_is_one_less_the_flip_rate() -> None:
    metric = metric_of(CLASSES, "agreement")
    assert not metric.needs_targets
    assert metric.share
    assert metric.rows(OTHERS, REFERENCE)[0].tolist() == [1.0, 0.0]
    assert metric.aggregate(REFERENCE, REFERENCE) == 1.0


def test_agreement_of_labels_is_that_of_what_is_decided() -> None:
    # log(0.8 / 0.2) = 1.386: only logits above that decide for a label.
    assert metric_of(LABELS, "agreement").rows(OTHERS, REFERENCE)[0] == pytest.approx([1.0, 1 / 3])


def test_divergence_is_that_of_jensen_and_shannon_in_bits() -> None:
    metric = metric_of(CLASSES, "divergence")
    p, q = (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True) for logits in (REFERENCE, OTHERS))
    assert metric.rows(OTHERS, REFERENCE)[0] == pytest.approx(jensenshannon(p, q, base=2, axis=1) ** 2, rel=1e-5)
    assert metric.aggregate(REFERENCE, REFERENCE) == 0.0
    apart = np.array([[900.0, 0.0, 0.0]]), np.array([[0.0, 900.0, 0.0]])
    assert metric.aggregate(*apart) == pytest.approx(1.0)


def test_the_relative_error_is_of_lengths() -> None:
    metric = metric_of(VALUES, "relative_error")
    wanted, found = np.array([[3.0, 4.0], [0.0, 0.0], [0.0, 0.0]]), np.array([[3.0, 4.5], [0.0, 0.0], [0.0, 1.0]])
    assert metric.rows(found, wanted)[0] == pytest.approx([0.1, 0.0, 1.0])


@pytest.mark.parametrize(
    ("output", "name"), [(CLASSES, "agreement"), (CLASSES, "divergence"), (VALUES, "relative_error")]
)
def test_what_is_further_from_the_reference_has_lost_more(output: spec.Output, name: str) -> None:
    metric, rng = metric_of(output, name), np.random.default_rng(0)
    reference = rng.normal(size=(400, output.shape[0]))
    near, far = (reference + noise * rng.normal(size=reference.shape) for noise in (0.1, 0.5))
    rows = {key: metric.rows(found, reference) for key, found in (("none", reference), ("near", near), ("far", far))}
    drops = {key: metric.drop(rows["none"], found) for key, found in rows.items()}
    assert drops["none"].drop == 0
    assert 0 < drops["near"].low < drops["near"].high < drops["far"].low
