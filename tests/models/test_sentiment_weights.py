"""The committed weights of `sentiment` are what their record says; needs packages (100 MB)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgefuse.datasets import sentiment as data
from edgefuse.errors import DataError
from edgefuse.models import sentiment
from edgefuse.models.fusion import FusionModel
from edgefuse.models.sentiment.training import embed, scores_by_subset

FOLDER = Path(__file__).parents[2] / "examples" / "sentiment"


@pytest.fixture(scope="module")
def model() -> FusionModel:
    try:
        return sentiment.build(FOLDER / "sentiment.safetensors")
    except DataError as error:
        pytest.skip(f"not checked: the recorded accuracy of 'sentiment': {error}")


@pytest.fixture(scope="module")
def items() -> data.SentimentItems:
    try:
        return data.items("test")
    except DataError as error:
        pytest.skip(f"not checked: the recorded accuracy of 'sentiment' on its data: {error}")


def test_record_meets_what_the_model_promises() -> None:
    record = json.loads((FOLDER / "training.json").read_text())
    test = record["test"]
    assert list(test) == ["audio+text", "audio", "text"]
    assert test["audio+text"]["accuracy"] >= 0.80
    assert record["data"]["splits"]["test"]["sentences"] >= 900
    assert (FOLDER / "sentiment.safetensors").stat().st_size <= 10_000_000


def test_weights_reach_the_recorded_scores_on_the_first_of_the_test_split(
    model: FusionModel, items: data.SentimentItems
) -> None:
    recorded = json.loads((FOLDER / "training.json").read_text())["first_of_test"]
    found = scores_by_subset(model, embed(model, items, recorded["items"]))
    for subset, scores in recorded["scores"].items():
        assert found[subset]["accuracy"] == pytest.approx(scores["accuracy"], abs=0.011)  # an item may lie on the edge


@pytest.mark.exhaustive
@pytest.mark.slow
def test_weights_reach_the_recorded_scores_on_the_test_split(model: FusionModel, items: data.SentimentItems) -> None:
    recorded = json.loads((FOLDER / "training.json").read_text())["test"]
    found = scores_by_subset(model, embed(model, items))
    for subset, scores in recorded.items():
        assert found[subset] == pytest.approx(scores, abs=0.01)
