"""Targets of samples: one type for all of them, and what is none is a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgefuse.bundle import spec
from edgefuse.compiler.model.samples import checked_target
from edgefuse.compiler.model.splits import load_split
from edgefuse.datasets.cache import open_cache
from edgefuse.datasets.sample import Sample, Splits
from edgefuse.errors import DataError

CLASSES = spec.ClassOutput(labels=("a", "b", "c"))
VALUES = spec.ValuesOutput(labels=("x", "y"))


def model(output: spec.ClassOutput | spec.ValuesOutput) -> spec.ModelSpec:
    return spec.ModelSpec(name="one", modalities=(spec.tensor("sensor", shape=(1, 2)),), outputs=(output,))


@pytest.mark.parametrize(
    ("output", "given"),
    [
        (VALUES, [[1, 2], [0.5, 2.5]]),
        (VALUES, [np.array([1, 2], np.float32), np.array([0.1, 2.5])]),
        (VALUES, [torch.tensor([3.0, 4.0]), [1, 2]]),
        (CLASSES, [1, np.uint8(2)]),
        (CLASSES, [torch.tensor(2), np.array([1], np.int32), 0]),
    ],
)
def test_targets_of_mixed_types_come_back_as_they_were(output: Any, given: list[Any], tmp_path: Path) -> None:
    samples = [Sample({"sensor": np.ones((1, 2), np.float32)}, target) for target in given]
    data = Splits(calibration=samples, validation=samples, test=samples, digest="mixed")
    split = load_split("test", data, model(output), {}, open_cache(tmp_path), lambda *_: None)
    expected = [np.asarray(target).item() if output is CLASSES else np.asarray(target).tolist() for target in given]
    assert split.targets.tolist() == expected
    assert split.targets.dtype == (np.int64 if output is CLASSES else np.float64)


@pytest.mark.parametrize(
    ("output", "target", "message"),
    [
        (
            VALUES,
            [[1], [1, 2]],
            r"got list, which is no array \(ValueError: setting an array element .*\), expected 2 finite numbers",
        ),
        (
            VALUES,
            torch.ones(2, requires_grad=True),
            r"got Tensor, which is no array \(RuntimeError: Can't call numpy\(\) on Tensor",
        ),
        (CLASSES, [[1], [1, 2]], r"got list, which is no array \(.*\), expected a class from 0 to 2"),
        (CLASSES, 1.0, r"got 1.0, expected a class from 0 to 2"),
        (VALUES, [1, float("inf")], r"got \[1, inf\], expected 2 finite numbers"),
        (VALUES, [True, False], r"got \[True, False\], expected 2 finite numbers"),
    ],
)
def test_a_target_that_is_none_is_a_sentence(output: Any, target: Any, message: str) -> None:
    wrong = r"^the target of sample 3 of 'test' does not fit the model's output: "
    with pytest.raises(DataError, match=wrong + message):
        checked_target("test", 3, target, model(output))
