"""Targets of samples: one type for all of them, by output, and what is none is a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgefuse.bundle import spec
from edgefuse.compiler.metrics.named import metric_of, metrics_of
from edgefuse.compiler.model.splits import SplitData, load_split
from edgefuse.compiler.model.targets import checked, missing
from edgefuse.datasets.cache import open_cache
from edgefuse.datasets.sample import Sample, Splits
from edgefuse.errors import DataError

CLASSES = spec.ClassOutput(labels=("a", "b", "c"))
VALUES = spec.ValuesOutput(labels=("x", "y"))
LABELS = spec.LabelsOutput(labels=("dog", "cat", "car"))
EMBEDDING = spec.EmbeddingOutput(size=2)
FOUND = spec.EmbeddingOutput(size=2, metric="recall@1")
IMAGE = spec.EmbeddingOutput(name="image", size=2, pair="embedding")
WORDS = spec.TokensOutput(steps=4, labels=("", "a", "b", "c"), blank=0)
SPOKEN = spec.TokensOutput(steps=4, labels=("", "a", "b", "c"), metric="word_error_rate")
DEPTHS = spec.ArrayOutput(name="depths", shape=(2, 2))


def read(outputs: tuple[Any, ...], given: list[Any], folder: Path) -> SplitData:
    described = spec.ModelSpec(name="one", modalities=(spec.tensor("sensor", shape=(1, 2)),), outputs=outputs)
    samples = [Sample({"sensor": np.ones((1, 2), np.float32)}, target) for target in given]
    data = Splits(calibration=samples, validation=samples, test=samples, digest=repr(given))
    metrics = metrics_of(described, folder)
    return load_split("test", data, described, metrics, {}, open_cache(folder / "cache"), lambda *_: None)


@pytest.mark.parametrize(
    ("output", "given", "expected"),
    [
        (VALUES, [[1, 2], [0.5, 2.5]], [[1, 2], [0.5, 2.5]]),
        (VALUES, [np.array([1, 2], np.float32), np.array([0.1, 2.5])], [[1, 2], [0.1, 2.5]]),
        (VALUES, [torch.tensor([3.0, 4.0]), [1, 2]], [[3, 4], [1, 2]]),
        (CLASSES, [1, np.uint8(2)], [1, 2]),
        (CLASSES, [torch.tensor(2), np.array([1], np.int32), 0], [2, 1, 0]),
        (LABELS, [[True, False, True], np.array([0, 0, 1], np.float32)], [[1, 0, 1], [0, 0, 1]]),
        (EMBEDDING, [[0.5, 1], [0, 1]], [[0.5, 1], [0, 1]]),
        (FOUND, [7, np.int32(7)], [7, 7]),
        (DEPTHS, [np.ones((2, 2)), np.zeros((2, 2), int)], [[[1, 1], [1, 1]], [[0, 0], [0, 0]]]),
        (WORDS, [[1, 2], [3, 3, 2, 1]], [[1, 2, -100, -100], [3, 3, 2, 1]]),
        (SPOKEN, ["a b", [1, 2], ""], ["a b", "ab", ""]),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_targets_come_back_as_they_were(output: Any, given: list[Any], expected: list[Any], tmp_path: Path) -> None:
    found = read((output,), given, tmp_path).targets[output.name]
    assert found.items.tolist() == list(range(len(given)))
    assert found.values.tolist() == expected


def test_each_output_has_targets_of_its_own_and_some_samples_have_none(tmp_path: Path) -> None:
    given = [{"logits": 2, "values": [1, 2]}, 1, {"values": [3, 4]}, {"logits": 0}, None]
    found = read((CLASSES, VALUES), given, tmp_path).targets
    assert found["logits"].items.tolist() == [0, 1, 3]
    assert found["logits"].values.tolist() == [2, 1, 0]
    assert found["values"].items.tolist() == [0, 2]
    places, values = found["values"].of(np.array([1, 2, 4]))
    assert (places.tolist(), values.tolist()) == ([1], [[3, 4]])
    assert read((CLASSES, VALUES), [1, 2], tmp_path).targets.keys() == {"logits"}
    with pytest.raises(DataError, match="sample 0 of 'test' has a target for an unknown output: got 'depth', expected"):
        read((CLASSES, VALUES), [{"depth": 1}], tmp_path)
    with pytest.raises(
        DataError, match="for the output 'image', which is held against 'embedding': got 1, expected no"
    ):
        read((IMAGE, EMBEDDING), [1], tmp_path)


def test_outputs_that_lack_targets_are_told() -> None:
    metrics = {"kind": metric_of(CLASSES), "depth": metric_of(VALUES), "image": metric_of(IMAGE)}
    full = {"kind": 2, "depth": 3}
    assert not list(missing({"validation": full, "test": full}, metrics))
    assert not list(missing({"validation": {"kind": 1}, "test": {"kind": 2}}, metrics))
    told = [str(fault) for fault in missing({"validation": {"depth": 1}, "test": {"kind": 1}}, metrics)]
    assert told == [
        "no sample of 'validation' has a target for the output 'kind', which 'accuracy' is to judge. "
        "Fix: give samples targets, or name a metric that needs none.",
        "no sample of 'test' has a target for the output 'depth', which 'mae' is to judge. "
        "Fix: give samples targets, or leave those of 'depth' out.",
    ]


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
        (LABELS, [0, 1, 2], r"got \[0, 1, 2\], expected 3 times 0 or 1"),
        (FOUND, -1, r"got -1, expected the index of a group, 0 or more"),
        (WORDS, [1, 4], r"got \[1, 4\], expected up to 4 ids from 0 to 3"),
        (WORDS, "ab", r"got 'ab', expected up to 4 ids from 0 to 3"),
        (SPOKEN, 1.5, r"got 1.5, expected text, or the ids of its tokens"),
        (DEPTHS, [1, 2], r"got \[1, 2\], expected 2 x 2 finite numbers"),
    ],
)
def test_a_target_that_is_none_is_a_sentence(output: Any, target: Any, message: str) -> None:
    wrong = r"^the target of sample 3 of 'test' does not fit the model's output: "
    with pytest.raises(DataError, match=wrong + message):
        checked("sample 3 of 'test'", target, metric_of(output, output.metric))
