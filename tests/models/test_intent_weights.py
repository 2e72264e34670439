"""The committed weights of `intent` are what their record says; needs the package of requests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgefuse.datasets import intent as data
from edgefuse.errors import DataError
from edgefuse.models import intent
from edgefuse.models.intent.training import collate, scores_by_subset
from edgefuse.models.reference.batches import Preprocess

FOLDER = Path(__file__).parents[2] / "examples" / "intent"
SUBSETS = ["image+audio+text", "image+audio", "image+text", "audio+text", "image", "audio", "text"]


@pytest.fixture(scope="module")
def record() -> Any:
    return json.loads((FOLDER / "training.json").read_text())


def test_record_meets_what_the_model_promises(record: Any) -> None:
    test, guess = record["test"], record["without_inputs"]
    assert list(test) == SUBSETS
    everything = test["image+audio+text"]
    for output, accuracy in everything["outputs"].items():
        assert accuracy > guess[output] + 0.1
    # the picture says which room is meant, the sentence all else: nothing alone does as well as all together
    assert everything["whole"] > max(test[alone]["whole"] for alone in ("image", "audio", "text"))
    assert test["image+text"]["outputs"]["area"] > test["text"]["outputs"]["area"] + 0.1
    assert (FOLDER / "intent.safetensors").stat().st_size <= 10_000_000


@pytest.mark.exhaustive
def test_weights_reach_what_the_record_says(record: Any) -> None:
    model = intent.build(FOLDER / "intent.safetensors")
    try:
        items, prepare = data.items("test"), Preprocess(model)
        batches = [collate(items[start : start + 100], prepare) for start in range(0, len(items), 100)]
    except DataError as error:
        pytest.skip(f"not checked: the recorded accuracy of 'intent': {error}")
    assert data.load().digest == record["data"]["digest"]
    for subset, score in scores_by_subset(model, batches).items():
        assert score.whole == pytest.approx(record["test"][subset]["whole"], abs=0.02)
        for output, accuracy in score.outputs.items():
            assert accuracy == pytest.approx(record["test"][subset]["outputs"][output], abs=0.01)


def test_other_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the weight file of 'intent' is missing: got no file"):
        intent.build(tmp_path / "none.safetensors")
    with pytest.raises(DataError, match=r"'digits\.safetensors' does not hold the weights of 'intent'"):
        intent.build(FOLDER.parent / "digits" / "digits.safetensors")
