"""The committed weights of `dialogue` are what their record says; needs the package of commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgefuse.datasets import dialogue as data
from edgefuse.errors import DataError
from edgefuse.models import dialogue
from edgefuse.models.dialogue.training import collate, scores_by_subset
from edgefuse.models.reference.batches import Preprocess

FOLDER = Path(__file__).parents[2] / "examples" / "dialogue"
SUBSETS = ["image+audio+text", "image+audio", "image+text", "audio+text", "image", "audio", "text"]


@pytest.fixture(scope="module")
def record() -> Any:
    return json.loads((FOLDER / "training.json").read_text())


def test_record_meets_what_the_model_promises(record: Any) -> None:
    test = record["test"]
    assert list(test) == SUBSETS
    whole = test["image+audio+text"]
    assert whole["tokens"] >= 0.70
    assert whole["tokens"] > record["without_inputs"] + 0.1
    # the picture says which room is meant, and both are better than the best of either
    assert whole["tokens"] > max(test[alone]["tokens"] for alone in ("image", "audio", "text"))
    assert test["image+text"]["replies"] > test["text"]["replies"]
    assert (FOLDER / "dialogue.safetensors").stat().st_size <= 10_000_000


@pytest.mark.exhaustive
def test_weights_reach_what_the_record_says(record: Any) -> None:
    try:
        model = dialogue.build(FOLDER / "dialogue.safetensors")
        items, prepare = data.items("test"), Preprocess(model)
        batches = [collate(items[start : start + 100], prepare) for start in range(0, len(items), 100)]
    except DataError as error:
        pytest.skip(f"not checked: the recorded accuracy of 'dialogue': {error}")
    assert data.load().digest == record["data"]["digest"]
    for subset, score in scores_by_subset(model, batches).items():
        assert score.tokens == pytest.approx(record["test"][subset]["tokens"], abs=0.01)
        assert score.replies == pytest.approx(record["test"][subset]["replies"], abs=0.02)


def test_other_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the weight file of 'dialogue' is missing: got no file"):
        dialogue.build(tmp_path / "none.safetensors")
    with pytest.raises(DataError, match=r"'digits\.safetensors' does not hold the weights of 'dialogue'"):
        dialogue.build(FOLDER.parent / "digits" / "digits.safetensors")
