"""The committed weights of `classifier` are what their record says; needs the package that carries the pictures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgefuse.datasets import clothing
from edgefuse.errors import DataError
from edgefuse.models import classifier
from edgefuse.models.classifier.training import logits_by_subset
from edgefuse.models.digits.training import accuracy_by_subset
from edgefuse.models.reference.batches import Preprocess, collate

FOLDER = Path(__file__).parents[2] / "examples" / "classifier"


def test_record_meets_what_the_model_promises() -> None:
    record = json.loads((FOLDER / "training.json").read_text())
    test = record["test"]
    assert len(test) == 7
    assert test["image+text+audio"] >= 0.8
    assert test["image+text+audio"] >= max(test["image"], test["text"], test["audio"]) + 0.05
    assert min(record["recall"].values()) >= 0.6  # the rare labels, too
    assert record["data"]["train"] == clothing.Settings().counts()
    assert (FOLDER / "classifier.safetensors").stat().st_size <= 10_000_000


def test_weights_reach_the_recorded_accuracy_on_part_of_the_test_split() -> None:
    record = json.loads((FOLDER / "training.json").read_text())
    model = classifier.build(FOLDER / "classifier.safetensors")
    try:
        splits = clothing.load()
    except DataError as error:
        pytest.skip(f"not checked: the recorded accuracy of 'classifier': {error}")
    assert record["data"]["digest"] == splits.digest
    found = accuracy_by_subset(model, [collate(splits.test[:200], Preprocess(model))], logits_by_subset)
    for subset, recorded in record["test"].items():
        assert found[subset] == pytest.approx(recorded, abs=0.1)
