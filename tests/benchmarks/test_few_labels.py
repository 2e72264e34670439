"""The estimates that `benchmarks.few_labels` compares."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.few_labels import Judged, powered, table


def test_prediction_powered_inference_keeps_the_variance_of_coin_tosses() -> None:
    """Flips are near ties: of what a label says of one, the expectation explains next to nothing."""
    rng = np.random.default_rng(0)
    n, more, trials = 600, 2400, 200
    found, errors, plain = [], [], []
    for _ in range(trials):
        losses = np.where(rng.random(n + more) < 0.03, rng.uniform(0, 0.3, n + more), 0.0)  # 0.45 points, of 3 % flips
        won = rng.random(n) < (1 - losses[:n]) / 2
        labelled = np.where(losses[:n] > 0, np.where(won, -1.0, 1.0), 0.0)
        drop, error = powered(losses, labelled, np.arange(n + more))
        found.append(drop)
        errors.append(error)
        plain.append(labelled.mean())
    assert np.mean(found) == pytest.approx(0.0045, abs=0.0012)
    assert np.std(found) == pytest.approx(np.mean(errors), rel=0.15)
    assert 0.85 * np.std(plain) < np.std(found) < 1.05 * np.std(plain)


def test_without_unlabelled_items_it_is_the_labelled_difference() -> None:
    labelled = np.array([1.0, 0.0, 0.0, -1.0, 1.0])
    assert powered(np.abs(labelled) / 5, labelled, np.arange(5))[0] == pytest.approx(0.2)


def test_the_table_says_what_is_covered_and_what_holds_the_budget() -> None:
    exact, off = (0.0, 0.001), (0.03, 0.001)
    rows = [
        Judged("onnx", name, "x", 0.1, test=(0.0, 0.002), labelled=one, powered=off, expected=exact, corrected=exact)
        for name, one in (("a", exact), ("b", off))
    ]
    lines = {line.split(" | ")[0].strip("| "): line.split(" | ")[1:] for line in table(rows, 0.01).splitlines()[4:]}
    assert lines["labelled"][1:5] == [f"{100 * math.sqrt(0.03**2 / 2):.2f}", "0.10", "50.0 %", "1 of 2"]
    assert lines["powered"][3:5] == ["0.0 %", "0 of 2"]
    assert lines["corrected"][3:5] == ["100.0 %", "2 of 2"]
