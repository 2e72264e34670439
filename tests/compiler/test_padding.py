"""Recurrent layers over sequences of any length, whose steps later stages or means read under a mask."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

import edgefuse
from edgefuse.compiler.candidates.build import Builder
from edgefuse.compiler.candidates.golden import golden_inputs
from edgefuse.compiler.check.record import Finding
from edgefuse.compiler.model.opening import take_apart
from edgefuse.compiler.model.subject import Model
from edgefuse.compiler.recipe import recipe as recipes
from edgefuse.compiler.workers import Settings, create
from edgefuse.datasets.cache import Cache
from edgefuse.graph import StageGraph
from edgefuse.registry import create as registered
from edgefuse.runtime.graph import zeros_of_tensor

BOTH = ("onnx", "tflite")

MODULE = """
import numpy as np
import torch
from torch import nn
from torch.nn import functional

from edgefuse.bundle import spec
from edgefuse.datasets import Sample, Splits
from edgefuse.models import FusionModel

OUTPUTS = (spec.EmbeddingOutput(name="answer", size=3),)
SEQUENCE = spec.tensor("sequence", shape=(1, spec.Bounded(max=20), 4), length=True)


class Steps(nn.Module):
    '''The steps of both directions, zeros behind the length if it is masked.'''

    def __init__(self, masked):
        super().__init__()
        self.layer, self.masked = nn.GRU(4, 6, batch_first=True, bidirectional=True), masked

    def forward(self, x, length):
        steps, _ = self.layer(x)
        valid = torch.arange(x.shape[1]).unsqueeze(0) < length.unsqueeze(1)
        return steps * valid.unsqueeze(2) if self.masked else steps


class Question(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.layer = nn.Embedding(30, 12), nn.Linear(12, 12)

    def forward(self, ids):
        return torch.tanh(self.layer(self.table(ids).mean(1)))


class Attending(nn.Module):
    '''A question attends to the steps that are not zero.'''

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(12, 3)

    def forward(self, features, present):
        steps = features["sequence"]
        scores = (steps @ features["words"].unsqueeze(2)).squeeze(2)
        scores = scores.masked_fill(steps.abs().sum(2) == 0, -1e4)
        return self.head((scores.softmax(1).unsqueeze(2) * steps).sum(1))


def attending(masked):
    torch.manual_seed(0)
    modalities = (SEQUENCE, spec.tensor("words", shape=(1, 5), dtype="int32"))
    described = spec.ModelSpec(name="attended", modalities=modalities, outputs=OUTPUTS, metric="mse")
    return FusionModel(described, {"sequence": Steps(masked), "words": Question()}, Attending()).eval()


def attended():
    return attending(masked=True)


def unmasked():
    return attending(masked=False)


class Listener(nn.Module):
    '''Frames by a convolution with a stride: their number follows from the samples, and so does their mask.'''

    def __init__(self):
        super().__init__()
        self.frames, self.layer = nn.Conv1d(1, 8, 40, 20), nn.GRU(8, 8, batch_first=True)

    def forward(self, x, length):
        frames = self.frames(functional.pad(x, (20, 20)).unsqueeze(1)).relu().transpose(1, 2)
        y, _ = self.layer(frames)
        count = (length // 20 + 1).clamp(max=y.shape[1])
        valid = torch.arange(y.shape[1])[None] < count[:, None]
        return (y * valid.unsqueeze(2)).sum(1) / count[:, None]


class Both(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(16, 3)

    def forward(self, features, present):
        return self.head(torch.cat([features["mic"], features["motion"]], 1))


def listener():
    torch.manual_seed(0)
    mic = spec.audio("mic", sample_rate_hz=16000, samples=800, variable=True, optional=True)
    modalities = (mic, spec.tensor("motion", shape=(1, 16)))
    described = spec.ModelSpec(name="listener", modalities=modalities, outputs=OUTPUTS, metric="mse")
    return FusionModel(described, {"mic": Listener(), "motion": nn.Linear(16, 8)}, Both()).eval()


def splits(name, make):
    rng = np.random.default_rng(0)
    items = [Sample(make(rng), np.zeros(3, np.float32)) for _ in range(40)]
    return Splits(calibration=items[:12], validation=items[12:26], test=items[26:], train=[], digest=name)


def sentences():
    return splits("sentences", lambda rng: {
        "sequence": rng.standard_normal((1, int(rng.integers(2, 21)), 4), np.float32),
        "words": rng.integers(0, 30, (1, 5)).astype(np.int32),
    })


def sounds():
    return splits("sounds", lambda rng: {
        "mic": (0.3 * rng.standard_normal(int(rng.integers(60, 800)))).astype(np.float32),
        "motion": rng.standard_normal((1, 16), np.float32),
    })
"""

RECIPE = """
[model]
factory = "padded_model:{factory}"
[data]
factory = "padded_model:{data}"
[compile]
targets = ["onnx", "tflite"]
[search]
max_drop = 0.9
max_fusion_passes = 1
"""


def recipe_of(folder: Path, factory: str, data: str) -> Path:
    (folder / "padded_model.py").write_text(MODULE)
    (folder / "recipe.toml").write_text(RECIPE.format(factory=factory, data=data))
    return folder / "recipe.toml"


def opened(recipe: Path) -> Model:
    return take_apart(recipe, recipes.load(recipe))


def builder_of(model: Model, cache: Path, targets: tuple[str, ...] = ("tflite",)) -> Builder:
    builder = Builder(targets, Cache(cache), create("local", Settings(shared=cache)))
    builder.lower(model.stages, golden_inputs(model.stages, model.spec))
    return builder


def padding(recipe: Path, cache: Path, target: str) -> list[Finding]:
    found = edgefuse.check(recipe, targets=[target], cache=cache)
    return [finding for finding in found.findings if finding.about == "padding"]


def chained(builder: Builder, target: str, model: Model, values: Mapping[str, Any]) -> Any:
    """Run the lowered stages one after the other, each on what the one before it gives."""
    backend = registered("backends", target)
    sessions = {name: files[0].open(backend, 1) for name, files in builder.live[target].built.items()}
    graph = StageGraph(tuple(stage.spec for stage in model.stages), ())
    results, _ = graph.run(
        graph.plan(()), lambda spec, given: sessions[spec.name].run(given), dict(values), graph.initial(zeros_of_tensor)
    )
    return next(iter(results.values()))


def test_steps_of_both_directions_that_a_later_stage_masks_reach_it_alike_at_every_length(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, "attended", "sentences")
    assert padding(recipe, tmp_path / "cache", "tflite") == []  # it ends by its length
    model = opened(recipe)
    assert [stage.spec.name for stage in model.stages] == ["sequence_encoder", "words_encoder", "fusion"]
    builder = builder_of(model, tmp_path / "cache", BOTH)
    assert builder.failed == {}
    module: Any = model.module
    rng = np.random.default_rng(1)
    for steps in (20, 13, 6, 1):
        sequence = rng.standard_normal((1, steps, 4), np.float32)
        words, length = rng.integers(0, 30, (1, 5)).astype(np.int32), np.array([steps], np.int32)
        values = {"sequence.values": sequence, "words.values": words, "sequence.length": length}
        with torch.no_grad():
            expected = module({name: torch.from_numpy(x) for name, x in values.items()}, torch.ones(1, 2)).numpy()
        for target in BOTH:
            found = chained(builder, target, model, values | {"present": np.ones((1, 2), np.float32)})
            assert np.abs(found - expected).max() < 1e-5, (target, steps)


def test_a_later_stage_without_a_mask_is_refused_by_the_check_as_by_a_compile(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, "unmasked", "sentences")
    (finding,) = padding(recipe, tmp_path / "cache", "tflite")
    assert (finding.stage, finding.target, finding.stops) == ("fusion", "tflite", True)
    assert finding.says.startswith("the stage 'fusion' depends on padding: its output 'answer' is ")
    assert finding.says.endswith("; TFLite files have fixed shapes and cannot have it so")
    builder = builder_of(opened(recipe), tmp_path / "cache")
    assert "the stage 'fusion' depends on padding, and TFLite files have" in str(builder.failed["tflite"])


def test_padding_is_nothing_to_targets_that_take_the_true_size(tmp_path: Path) -> None:
    found = padding(recipe_of(tmp_path, "unmasked", "sentences"), tmp_path / "cache", "onnx")
    assert {finding.stage for finding in found} == {"sequence_encoder", "fusion"}
    assert not any(finding.stops or finding.target for finding in found)
    assert all(finding.says.endswith("; the targets of this recipe take the true size") for finding in found)


def test_a_mean_masked_at_a_resampled_length_is_right_at_every_length(tmp_path: Path) -> None:
    model = opened(recipe_of(tmp_path, "listener", "sounds"))
    builder = builder_of(model, tmp_path / "cache", BOTH)
    assert builder.failed == {}
    module: Any = model.module
    rng = np.random.default_rng(1)
    motion = rng.standard_normal((1, 16), np.float32)
    for samples in (800, 523, 140, 60):
        sound = (0.3 * rng.standard_normal((1, samples))).astype(np.float32)
        values = {"mic.samples": sound, "mic.length": np.array([samples], np.int32), "motion.values": motion}
        with torch.no_grad():
            expected = module({name: torch.from_numpy(x) for name, x in values.items()}, torch.ones(1, 2)).numpy()
        for target in BOTH:
            found = chained(builder, target, model, values | {"present": np.ones((1, 2), np.float32)})
            assert np.abs(found - expected).max() < 1e-5, (target, samples)
