"""Pruned candidates, from the recipe to the bundle, on a user's own two-input model."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

import edgefuse
from edgefuse.bundle.manifest import PruningStep
from edgefuse.bundle.reader import open_bundle
from edgefuse.compiler import compile
from edgefuse.compiler.evaluation.evaluator import Evaluator
from edgefuse.compiler.model.subject import Subject
from edgefuse.compiler.recovery.batches import (
    JointStageExamples,
    LeafExamples,
    SubsetTable,
    TrainingData,
    examples,
    stacked,
)
from edgefuse.compiler.recovery.forms import recovered
from edgefuse.compiler.workers import Settings, create
from edgefuse.datasets.cache import Cache
from edgefuse.measure import agreement
from edgefuse.stages.running import run_torch
from tests.compiler.subjects import subject_of

PRUNE = """
[[prune.variants]]
stages = ["image_encoder", "sensor_encoder", "fusion"]
steps = [{ method = "structured", ratio = 0.5, importance = "magnitude" }]

[recover]
epochs = 3
batch = 32
"""


@pytest.fixture(scope="module")
def pruned_recipe(own_recipe: Path) -> Path:
    path = own_recipe.with_name("pruned.toml")
    path.write_text(own_recipe.read_text(encoding="utf-8") + PRUNE, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return Cache(tmp_path_factory.mktemp("pruning-cache"))


@pytest.fixture(scope="module")
def subject(pruned_recipe: Path, cache: Cache) -> Subject:
    return subject_of(pruned_recipe, cache)


@pytest.fixture(scope="module")
def training(subject: Subject, cache: Cache) -> TrainingData:
    data = subject.splits["train"]
    return TrainingData(subject, data, Evaluator(subject, data, cache, lambda what: None))


def test_leaf_examples_are_what_the_unpruned_stage_makes_of_padded_batches(
    subject: Subject, training: TrainingData
) -> None:
    stage = next(s for s in subject.stages if s.spec.name == "sensor_encoder")
    (values, lengths), (feature,) = LeafExamples(training, stage.spec).batch([0, 5, 9])
    assert values.shape == (3, int(lengths.max()), 8)
    for row in range(3):
        length = int(lengths[row])
        alone = {"values": values[row : row + 1, :length].numpy(), "length": lengths[row : row + 1].numpy()}
        np.testing.assert_allclose(run_torch(stage, alone)["feature"][0], feature[row], atol=1e-5)


def test_fusion_examples_hold_every_item_under_every_subset(subject: Subject, training: TrainingData) -> None:
    stage = subject.stages[-1]
    data = examples(training, stage)
    assert isinstance(data, JointStageExamples)
    assert len(data) == 256 * 3
    (image, sensor, present), (logits,) = data.batch(range(6))
    assert present.tolist() == [[1, 1], [1, 0], [0, 1]] * 2
    assert not image[present[:, 0] == 0].any()
    assert not sensor[present[:, 1] == 0].any()
    assert logits.shape == (6, 4)


def test_stacking_pads_with_zeros() -> None:
    whole = stacked([np.ones((1, 2, 3), np.float32), np.ones((1, 4, 1), np.float32)])
    assert whole.shape == (2, 4, 3)
    assert float(whole.sum()) == 10


def test_the_table_of_the_unpruned_model_is_right_and_a_broken_stage_shows(subject: Subject, cache: Cache) -> None:
    data = subject.splits["validation"]
    table = SubsetTable(TrainingData(subject, data, Evaluator(subject, data, cache, lambda what: None)))
    assert table({})["image+sensor"] == 1.0  # the labels are the model's own answers
    encoder = next(s for s in subject.stages if s.spec.name == "image_encoder").module
    torch.manual_seed(1)
    untrained = {"image_encoder": type(encoder)().eval()}
    assert table(untrained)["image+sensor"] < 1.0
    assert table(untrained)["sensor"] == table({})["sensor"]


def test_forms_are_made_once_and_recover(subject: Subject, cache: Cache) -> None:
    found = recovered(subject, cache, create("local", Settings(shared=cache.folder)))
    assert {name: len(forms) for name, forms in found.pruned.items()} == {
        "image_encoder": 1,
        "sensor_encoder": 1,
        "fusion": 1,
    }
    for name, (form,) in found.pruned.items():
        assert form.pruning is not None
        assert form.pruning.id == "structured50"
        assert form.spec == found.of(name)[0].spec
        before = sum(p.numel() for p in found.of(name)[0].module.parameters())
        assert sum(p.numel() for p in form.module.parameters()) < 0.75 * before

    def forbidden(done: int, total: int, what: str) -> None:
        assert what in ("try prunings", "prune and recover"), f"made again: {what}"

    again = recovered(subject, cache, create("local", Settings(shared=cache.folder, progress=forbidden)))
    for name, (form,) in found.pruned.items():
        ours, theirs = form.module.state_dict(), again.pruned[name][0].module.state_dict()
        assert all(bool((ours[key] == theirs[key]).all()) for key in ours)
    assert not list((cache.folder / "recovering").glob("*"))


def test_a_pruning_that_a_stage_does_not_take_leaves_the_others(subject: Subject, cache: Cache) -> None:
    wanted = msgspec.structs.replace(
        subject.recipe.prune.variants[0],
        stages=("image_encoder", "fusion"),
        steps=(PruningStep(method="vocabulary", ratio=0.5),),
    )
    prune = msgspec.structs.replace(subject.recipe.prune, variants=(*subject.recipe.prune.variants, wanted))
    asked = replace(subject, recipe=msgspec.structs.replace(subject.recipe, prune=prune))
    found = recovered(asked, cache, create("local", Settings(shared=cache.folder)))
    assert {name: len(forms) for name, forms in found.pruned.items()} == {
        "image_encoder": 1,
        "sensor_encoder": 1,
        "fusion": 1,
    }
    assert set(found.refused) == {("image_encoder", "vocabulary50"), ("fusion", "vocabulary50")}


def test_a_pruned_model_compiles_into_a_bundle_that_verifies(
    pruned_recipe: Path, cache: Cache, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        result = compile(pruned_recipe, tmp_path, cache=cache.folder)
    (bundle,) = result.bundles
    with open_bundle(bundle) as opened:
        assert all(found.ok for found in agreement.check(opened))
        for candidate in opened.manifest.candidates:
            assert (candidate.pruning is not None) == ("structured50" in candidate.id)
        smallest = min(opened.manifest.rungs, key=lambda rung: rung.size_bytes)
        assert any("structured50" in candidate for candidate in smallest.candidates.values())
    with edgefuse.load(bundle, rung=smallest.name) as pipeline:
        assert pipeline(image=np.full((16, 16), 90, np.uint8)).label in ("north", "east", "south", "west")
