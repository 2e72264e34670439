"""The user's own metric: per item or over all, and everything that can be wrong with it is one sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgefuse.bundle.spec import ClassOutput, ValuesOutput
from edgefuse.compiler.metrics.metric import Metric
from edgefuse.compiler.metrics.named import metric_of
from edgefuse.errors import EdgefuseError

MODULE = """
import numpy as np
import torchmetrics

def near(outputs, targets):
    return np.abs(outputs[:, 0] - targets) < 1.5

def spread(outputs, targets):
    return float(np.std(outputs[:, 0] - targets))

spread.higher_is_better = False

def fewer(outputs, targets):
    return np.zeros(len(outputs) - 1)

def lost(outputs, targets):
    return np.full(len(outputs), np.nan)

def broken(outputs, targets):
    return outputs[:, 7]

def words(outputs, targets):
    return "good"

kappa = torchmetrics.classification.MulticlassCohenKappa(3)
number = 3
"""
VALUES = ValuesOutput(labels=("mm",))
OUTPUTS, TARGETS = np.linspace(0, 3, 40, dtype=np.float32)[:, None], np.linspace(0, 2, 40)
FIX = "Fix: return an array with a finite score for each item, or one finite number for all of them."


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    # A name of its own for each test: a module is imported once in a process.
    (tmp_path / f"own_{tmp_path.name}.py").write_text(MODULE, encoding="utf-8")
    return tmp_path


def metric(folder: Path, name: str, output: ValuesOutput | ClassOutput = VALUES) -> Metric:
    return metric_of(output, f"own_{folder.name}:{name}", folder)


def test_scores_per_item_have_a_paired_interval(folder: Path) -> None:
    near = metric(folder, "near")
    rows = near.rows(OUTPUTS, TARGETS)
    assert len(rows) == 1
    assert near.aggregate(OUTPUTS, TARGETS) == 1
    drop = near.drop(rows, near.rows(OUTPUTS + 1, TARGETS))
    assert drop.drop == pytest.approx(0.5, abs=0.05)
    assert 0.3 < drop.low < drop.drop < drop.high < 0.7
    assert not near.lower_is_better
    assert not near.share


def test_one_figure_of_all_items_is_drawn_again(folder: Path) -> None:
    spread = metric(folder, "spread")
    assert spread.lower_is_better
    noise = np.random.default_rng(0).normal(0, 1, OUTPUTS.shape)
    drop = spread.drop(spread.rows(OUTPUTS, TARGETS), spread.rows(OUTPUTS + noise, TARGETS))
    assert 0 < drop.low < drop.drop < drop.high


def test_a_metric_of_torchmetrics_may_be_named(folder: Path) -> None:
    kappa = metric(folder, "kappa", ClassOutput(labels=("a", "b", "c")))
    classes = np.arange(30) % 3
    logits = np.eye(3, dtype=np.float32)[classes]
    assert kappa.aggregate(logits, classes) == 1
    assert kappa.aggregate(np.roll(logits, 1, axis=0), classes) == -0.5  # nothing is kept from the call before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "fewer",
            "returns another number of scores than there are items: got the shape [39], expected [40], or one number. "
            + FIX,
        ),
        ("lost", f"is not finite: got 40 of 40 numbers NaN or infinite. {FIX}"),
        ("words", f"returns no numbers: got str. {FIX}"),
        ("broken", "failed: got IndexError: index 7 is out of bounds for axis 1 with size 1 (own_"),
    ],
)
def test_what_is_wrong_with_it_is_a_sentence(name: str, message: str, folder: Path) -> None:
    with pytest.raises(EdgefuseError) as caught:
        metric(folder, name).aggregate(OUTPUTS, TARGETS)
    assert str(caught.value).startswith(f"the metric 'own_{folder.name}:{name}' {message}")


def test_what_is_no_metric_is_a_sentence(folder: Path) -> None:
    with pytest.raises(
        EdgefuseError, match=r"the metric 'own_.*:number' cannot be called: got int, expected a callable"
    ):
        metric(folder, "number")
    with pytest.raises(EdgefuseError, match=r"the module 'own_.*' has no 'near_by'"):
        metric(folder, "near_by")
    with pytest.raises(EdgefuseError, match=r"cannot import .*'nowhere:near': got "):
        metric_of(VALUES, "nowhere:near", folder)
