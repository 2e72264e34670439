"""The committed weights of `vqa` are what their record says; needs packages (40 MB)."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import pytest

from edgefuse.datasets.scenes import question_items
from edgefuse.errors import DataError
from edgefuse.models import vqa
from edgefuse.models.vqa.training import accuracy, embed

FOLDER = Path(__file__).parents[2] / "examples" / "vqa"
SUBSETS = ["image+question", "image", "question"]


def test_record_meets_what_the_model_promises() -> None:
    record = json.loads((FOLDER / "training.json").read_text())
    test = {subset: record["test"][subset]["all"] for subset in SUBSETS}
    assert list(record["test"]) == SUBSETS
    assert test["image+question"] >= 0.85
    assert max(test["image"], test["question"], record["data"]["guess"]["all"]) <= 0.3
    assert (FOLDER / "vqa.safetensors").stat().st_size <= 10_000_000


def test_weights_reach_the_recorded_scores_on_the_first_of_the_test_split() -> None:
    recorded = json.loads((FOLDER / "training.json").read_text())["first_of_test"]
    model = vqa.build(FOLDER / "vqa.safetensors")
    try:
        items = question_items("test")
    except DataError as error:
        pytest.skip(f"not checked: the recorded accuracy of 'vqa' on its data: {error}")
    count = recorded["scenes"]
    asked = islice(items.questions(), count * items.each)
    found = accuracy(model, embed(model, items.scenes, count), asked)
    for subset in SUBSETS:
        assert found[subset]["all"] == pytest.approx(recorded["scores"][subset]["all"], abs=0.021)
