"""Recovery of a model with two outputs: what the second one lost decides which epoch is kept, too."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgefuse.compiler.model.subject import Subject
from edgefuse.compiler.model.targets import Targets
from edgefuse.compiler.recovery.batches import ThroughTorch, examples
from edgefuse.compiler.recovery.forms import recovered
from edgefuse.compiler.recovery.recover import take_step
from edgefuse.compiler.workers import Settings, create
from edgefuse.datasets.cache import Cache
from tests.compiler.subjects import subject_of

MODULE = """
import numpy as np
import torch
from torch import nn

from edgefuse.bundle import spec
from edgefuse.datasets import Sample, Splits
from edgefuse.models import FusionModel

SPEC = spec.ModelSpec(
    name="two",
    modalities=(spec.tensor("x", shape=(1, 16)),),
    outputs=(
        spec.ClassOutput(labels=("a", "b", "c")),
        spec.ValuesOutput(name="depth", labels=("near", "far"), metric="mse"),
    ),
)


class Heads(nn.Module):
    def __init__(self):
        super().__init__()
        self.kind, self.depth = nn.Linear(16, 3), nn.Linear(16, 2)

    def forward(self, features, present):
        return self.kind(features["x"]), self.depth(features["x"])


def build():
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 16))
    return FusionModel(SPEC, {"x": encoder}, Heads()).eval()


def samples(seed, count):
    model, rng = build(), np.random.default_rng(seed)
    for _ in range(count):
        x = rng.standard_normal((1, 16), np.float32)
        with torch.no_grad():
            kind, depth = model({"x.values": torch.from_numpy(x)}, torch.ones(1, 1))
        noisy = depth[0].numpy() + rng.normal(0, 0.02, 2).astype(np.float32)
        yield Sample({"x": x}, {"logits": int(kind.argmax()), "depth": noisy})


def data():
    sizes = {"calibration": 10, "validation": 100, "test": 10, "train": 200}
    return Splits(**{name: list(samples(i, count)) for i, (name, count) in enumerate(sizes.items())}, digest="two")
"""
RECIPE = """
[model]
factory = "two_outputs_model:build"
[data]
factory = "two_outputs_model:data"
[[prune.variants]]
stages = ["x_encoder"]
steps = [{ method = "structured", ratio = 0.5, importance = "magnitude" }]
[recover]
epochs = 3
batch = 8
"""


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    folder = tmp_path_factory.mktemp("two")
    (folder / "two_outputs_model.py").write_text(MODULE, encoding="utf-8")
    path = folder / "recipe.toml"
    path.write_text(RECIPE, encoding="utf-8")
    return subject_of(path, Cache(folder / "cache"))


def as_pruned(subject: Subject, cache: Cache) -> nn.Module:
    stage = next(stage for stage in subject.stages if stage.spec.name == "x_encoder")
    (step,) = subject.recipe.prune.variants[0].steps
    return take_step(stage, step, examples(ThroughTorch(subject, cache).training, stage), None)


def test_an_output_that_lost_much_recovers_though_the_first_one_was_best_as_pruned(
    subject: Subject, tmp_path: Path
) -> None:
    cache = Cache(tmp_path)
    pruned = as_pruned(subject, cache)
    data = subject.splits["validation"]
    values = {"x": torch.from_numpy(np.concatenate([data.values.get("x.values", i) for i in range(len(data))]))}
    with torch.no_grad():
        answers = subject.stages[-1].module(pruned(values["x"]), torch.ones(len(data), 1))[0].argmax(1).numpy()
    # Labels that the pruned stage happens to get right: the first output alone would keep the stage as it was pruned.
    lucky = {**data.targets, "logits": Targets(np.arange(len(data)), answers)}
    splits = {**subject.splits, "validation": replace(data, targets=lucky)}
    with create("local", Settings(shared=tmp_path)) as workers:
        (recovery,) = recovered(replace(subject, splits=splits), cache, workers).recoveries
    before, *others = recovery.epochs
    assert set(before.accuracy) == {"x", "depth: x"}
    after = max(others, key=lambda epoch: epoch.mean_accuracy)
    assert after.accuracy["x"] < before.accuracy["x"]
    assert after.accuracy["depth: x"] > before.accuracy["depth: x"]
    assert after.mean_accuracy > before.mean_accuracy


def test_what_is_kept_is_1_where_nothing_is_lost_and_errors_count_as_a_share_of_the_unpruned_models(
    subject: Subject, tmp_path: Path
) -> None:
    table = ThroughTorch(subject, Cache(tmp_path)).table
    assert table({}) == {"x": 1, "depth: x": 1}
    pruned = as_pruned(subject, Cache(tmp_path))
    data = subject.splits["validation"]
    kind, depth = data.targets["logits"].values, data.targets["depth"].values
    inputs = torch.from_numpy(np.concatenate([data.values.get("x.values", i) for i in range(len(data))]))
    stages = {stage.spec.name: stage.module for stage in subject.stages}
    errors = []
    with torch.no_grad():
        for encoder in (stages["x_encoder"], pruned):
            logits, values = stages["fusion"](encoder(inputs), torch.ones(len(data), 1))
            errors.append(float(((values.numpy() - depth) ** 2).mean()))
    found = table({"x_encoder": pruned})
    assert found["x"] == pytest.approx((logits.argmax(1).numpy() == kind).mean())
    assert found["depth: x"] == pytest.approx(1 - (errors[1] - errors[0]) / errors[0], rel=1e-4)
