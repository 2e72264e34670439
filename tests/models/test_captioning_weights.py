"""The committed weights of `captioning` are what their record says; needs packages (60 MB)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgefuse.datasets.scenes import Scenes
from edgefuse.errors import DataError
from edgefuse.models import captioning
from edgefuse.models.captioning.training import embed, scores_by_subset

FOLDER = Path(__file__).parents[2] / "examples" / "captioning"
SUBSETS = ["image+prefix", "image", "prefix"]


def test_record_meets_what_the_model_promises() -> None:
    record = json.loads((FOLDER / "training.json").read_text())
    test = record["test"]
    assert list(test) == SUBSETS
    blind = [test["prefix"], *record["guessed"].values()]
    for metric in ("token_accuracy", "bleu", "true"):
        assert test["image+prefix"][metric] > max(scores[metric] for scores in blind) + 0.1
    assert (FOLDER / "captioning.safetensors").stat().st_size <= 10_000_000


def test_weights_reach_the_recorded_scores_on_the_first_of_the_test_split() -> None:
    recorded = json.loads((FOLDER / "training.json").read_text())["first_of_test"]
    try:
        model = captioning.build(FOLDER / "captioning.safetensors")
        scenes = Scenes("test")
    except DataError as error:
        pytest.skip(f"not checked: the recorded scores of 'captioning' on its data: {error}")
    found = scores_by_subset(model, embed(model, scenes, recorded["scenes"]), scenes)
    for subset in SUBSETS:
        wanted = recorded["scores"][subset]["token_accuracy"]
        assert found[subset]["token_accuracy"] == pytest.approx(wanted, abs=0.01)
