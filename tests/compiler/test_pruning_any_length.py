"""Pruning and recovery where a feature has as many steps as its input: the steps of samples differ."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from edgefuse.compiler.model.subject import Subject
from edgefuse.compiler.recovery.batches import ThroughTorch, examples
from edgefuse.compiler.recovery.forms import recovered
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
    name="steps",
    modalities=(
        spec.tensor("sensor", shape=(1, 6)),
        spec.tensor("sound", shape=(1, spec.Bounded(max=24), 4), length=True, optional=True),
    ),
    outputs=(spec.ClassOutput(labels=("a", "b", "c")),),
)


class Steps(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 8))

    def forward(self, x, length):
        steps = torch.arange(x.shape[1], dtype=torch.int32).unsqueeze(0)
        return self.layers(x) * (steps < length.unsqueeze(1)).to(torch.float32).unsqueeze(2)


class Sum(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 3))

    def forward(self, features, present):
        return self.layers(torch.cat([features["sensor"], features["sound"].sum(1)], dim=1))


def build():
    torch.manual_seed(0)
    sensor = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 8))
    return FusionModel(SPEC, {"sensor": sensor, "sound": Steps()}, Sum()).eval()


def samples(seed, count):
    rng, found = np.random.default_rng(seed), []
    for number in range(count):
        inputs = {"sensor": rng.standard_normal((1, 6), np.float32)}
        if number % 5:
            inputs["sound"] = rng.standard_normal((1, int(rng.integers(3, 25)), 4), np.float32)
        found.append(Sample(inputs, int(rng.integers(3))))
    return found


def data():
    sizes = {"calibration": 10, "validation": 300, "test": 10, "train": 40}  # more to judge than at once
    return Splits(**{name: samples(seed, count) for seed, (name, count) in enumerate(sizes.items())}, digest="steps")
"""
RECIPE = """
[model]
factory = "steps_model:build"
[data]
factory = "steps_model:data"
[[prune.variants]]
stages = ["sensor_encoder", "sound_encoder", "fusion"]
steps = [{ method = "structured", ratio = 0.5, importance = "taylor" }]
[recover]
epochs = 2
batch = 8
"""


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    folder = tmp_path_factory.mktemp("steps")
    (folder / "steps_model.py").write_text(MODULE, encoding="utf-8")
    path = folder / "recipe.toml"
    path.write_text(RECIPE, encoding="utf-8")
    return subject_of(path, Cache(folder / "cache"))


def test_all_stages_are_pruned_and_recover(subject: Subject, tmp_path: Path) -> None:
    with create("local", Settings(shared=tmp_path)) as workers:
        forms = recovered(subject, Cache(tmp_path), workers)
    assert not forms.refused
    assert set(forms.pruned) == {"sensor_encoder", "sound_encoder", "fusion"}
    for recovery in forms.recoveries:
        assert len(recovery.epochs) == 3
        assert set(recovery.epochs[-1].accuracy) == {"sensor+sound", "sensor"}


def test_in_padding_a_student_learns_what_the_teacher_gives_there(subject: Subject, tmp_path: Path) -> None:
    through = ThroughTorch(subject, Cache(tmp_path))
    stage = next(stage for stage in subject.stages if stage.spec.name == "sound_encoder")
    inputs, (expected,) = examples(through.training, stage).batch(range(8))
    assert len({int(length) for length in inputs[1]}) > 1
    assert expected.shape[:2] == inputs[0].shape[:2]
    torch.testing.assert_close(stage.module(*inputs), expected)


def test_unpruned_stages_are_judged_as_one_by_one(subject: Subject, tmp_path: Path) -> None:
    table = ThroughTorch(subject, Cache(tmp_path)).table
    by_name = {stage.spec.name: stage.module for stage in subject.stages}
    data = subject.splits["validation"]
    found = table({"sound_encoder": by_name["sound_encoder"]})
    assert found == table({})
    right = []
    with torch.inference_mode():
        for index in data.with_subset((0, 1)):
            values = {key: torch.from_numpy(np.array(value)) for key, value in data.values[int(index)].items()}
            answer = subject.module(values, torch.ones(1, 2))
            right.append(int(answer.argmax()) == data.targets["logits"].values[int(index)])
    assert found["sensor+sound"] == pytest.approx(np.mean(right))
