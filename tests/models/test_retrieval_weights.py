"""The committed weights of `retrieval` are what their record says; needs packages (100 MB)."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

from edgefuse.datasets import stamps
from edgefuse.datasets.stamps.pairs import load, others, pairs
from edgefuse.errors import DataError
from edgefuse.models import assistant
from edgefuse.models.assistant.training import embed
from edgefuse.models.retrieval import build
from edgefuse.models.retrieval.model import Retrieval

FOLDER = Path(__file__).parents[2] / "examples" / "retrieval"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """The training script as a module."""
    spec = importlib.util.spec_from_file_location("retrieval_train", FOLDER / "train.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def model() -> Retrieval:
    try:
        stamps.material()
        return build(FOLDER / "retrieval.safetensors")
    except DataError as error:
        pytest.skip(f"not checked: the recorded recall of 'retrieval': {error}")


def test_record_meets_what_the_model_promises() -> None:
    record = json.loads((FOLDER / "training.json").read_text())
    test, before = record["trained"]["test"], record["names alone"]["test"]
    for query in ("caption to picture", "picture to caption"):
        assert test[query]["recall@10"] > before[query]["recall@10"]
        assert test[query]["recall@10 ci95"][0] > 4 * test["chance"]["recall@10"]
    assert (FOLDER / "retrieval.safetensors").stat().st_size <= 10_000_000


def test_no_thing_is_in_two_splits_and_no_caption_twice(model: Retrieval) -> None:
    parts = {split: pairs(split) for split in ("train", "calibration", "validation", "test")}
    seen: dict[str, str] = {}
    for split, part in parts.items():
        captions = [part.of.stamp(row).caption for row in part.chosen]
        assert len(captions) == len(set(captions))
        assert not [path for row in part.chosen if seen.setdefault(path := part.of.stamp(row).path, split) != split]
    assert len(parts["test"]) >= 100
    # The search sees things that nothing else has, and so many that one of them is half a point.
    beside = [others().of.stamp(row) for row in others().chosen]
    known = {part.of.stamp(row).caption for part in parts.values() for row in range(len(part.of))}
    assert not known & {stamp.caption for stamp in beside}
    assert len({stamp.caption for stamp in beside}) == len(beside)
    assert len(load().validation) == len(parts["validation"]) + len(beside) >= 200
    sample = load().test[3]
    assert (set(sample.inputs), sample.target) == ({"image", "audio", "text"}, None)


@pytest.mark.exhaustive
@pytest.mark.slow
def test_weights_reach_the_recorded_recall(model: Retrieval, script: ModuleType) -> None:
    recorded = json.loads((FOLDER / "training.json").read_text())["trained"]["validation"]
    found = script.judged(model, embed(assistant.build(), stamps.items("validation")), pairs("validation"))
    for query in ("caption to picture", "picture to caption", "speech to picture"):
        assert found[query]["recall@10"] == pytest.approx(recorded[query]["recall@10"], abs=0.02)
