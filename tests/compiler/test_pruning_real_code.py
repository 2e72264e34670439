"""Blocks as nanoGPT has them, in an encoder and in fusion: pruned, tried before any recovery, compiled and reported."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

import edgefuse
from edgefuse.bundle.manifest import Pruning, PruningStep
from edgefuse.compiler import compile
from edgefuse.compiler.model.subject import Subject
from edgefuse.compiler.recovery.forms import recovered
from edgefuse.compiler.recovery.rehearsal import Rehearse
from edgefuse.compiler.workers import Settings, create
from edgefuse.datasets.cache import Cache
from tests.compiler.hurry import hurried
from tests.compiler.subjects import subject_of

MODEL = '''
import math

import numpy as np
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from edgefuse.bundle import spec
from edgefuse.datasets import Sample, Splits
from edgefuse.models import FusionModel


class CausalSelfAttention(nn.Module):
    def __init__(self, n_embd, n_head):
        super().__init__()
        self.c_attn = nn.Linear(n_embd, 3 * n_embd)
        self.c_proj = nn.Linear(n_embd, n_embd)
        self.n_head, self.n_embd, self.dropout = n_head, n_embd, nn.Dropout(0.1)
        self.register_buffer("bias", torch.tril(torch.ones(32, 32)).view(1, 1, 32, 32))

    def forward(self, x):
        B, T, C = x.size()
        q, k, v = self.c_attn(x).split(self.n_embd, dim=2)
        k = k.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)
        q = q.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)
        v = v.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)
        att = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
        att = att.masked_fill(self.bias[:, :, :T, :T] == 0, float("-inf"))
        y = self.dropout(functional.softmax(att, dim=-1)) @ v
        return self.c_proj(y.transpose(1, 2).contiguous().view(B, T, C))


class Block(nn.Module):
    def __init__(self, n_embd, n_head):
        super().__init__()
        self.ln_1, self.attn = nn.LayerNorm(n_embd), CausalSelfAttention(n_embd, n_head)
        self.ln_2 = nn.LayerNorm(n_embd)
        self.mlp = nn.Sequential(nn.Linear(n_embd, 4 * n_embd), nn.GELU(), nn.Linear(4 * n_embd, n_embd))

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class Audio(nn.Module):
    def __init__(self):
        super().__init__()
        self.enter, self.block, self.leave = nn.Linear(6, 48), Block(48, 6), nn.Linear(48, 32)

    def forward(self, x):
        return self.leave(self.block(self.enter(x)).mean(1))


class Sensor(nn.Module):
    """A width that is a constant, and one that is free."""

    def __init__(self):
        super().__init__()
        self.fixed, self.free, self.leave = nn.Linear(8, 32), nn.Linear(32, 64), nn.Linear(64, 32)

    def forward(self, x):
        x = self.fixed(x).reshape(-1, 4, 8).transpose(1, 2).reshape(-1, 32)
        return self.leave(torch.relu(self.free(x)))


class Fusion(nn.Module):
    def __init__(self):
        super().__init__()
        self.enter, self.block, self.head = nn.Linear(32, 32), Block(32, 4), nn.Linear(32, 3)

    def forward(self, features, present):
        tokens = torch.stack([features["audio"], features["sensor"]], dim=1)
        tokens = torch.where((present > 0.5).unsqueeze(2), tokens, torch.zeros_like(tokens))
        return self.head(self.block(self.enter(tokens)).mean(1))


def build():
    torch.manual_seed(0)
    modalities = (
        spec.tensor("audio", shape=(1, 20, 6), optional=True),
        spec.tensor("sensor", shape=(1, 8), optional=True),
    )
    outputs = (spec.ClassOutput(labels=("a", "b", "c")),)
    model = spec.ModelSpec(name="gpt", modalities=modalities, outputs=outputs)
    return FusionModel(model, {"audio": Audio(), "sensor": Sensor()}, Fusion())


def data():
    random = np.random.default_rng(0)
    model = build().eval()

    def part(count):
        items = []
        for _ in range(count):
            x = {"audio": random.standard_normal((1, 20, 6), np.float32)}
            x["sensor"] = random.standard_normal((1, 8), np.float32)
            with torch.no_grad():
                given = {f"{name}.values": torch.from_numpy(value) for name, value in x.items()}
                answer = model(given, torch.ones(1, 2))
            items.append(Sample(x, int(answer.argmax())))
        return items

    return Splits(calibration=part(8), validation=part(24), test=part(24), train=part(64), digest="gpt-1")
'''

RECIPE = """
[model]
factory = "gpt:build"

[data]
factory = "gpt:data"

[compile]
targets = ["onnx"]

[search]
max_drop = 0.9
max_fusion_passes = 2

[[prune.variants]]
stages = ["audio_encoder", "sensor_encoder", "fusion"]
steps = [{ method = "structured", ratio = 0.5 }]

[[prune.variants]]
stages = ["audio_encoder", "fusion"]
steps = [{ method = "hidden", ratio = 0.5, importance = "taylor" }]

[[prune.variants]]
stages = ["fusion"]
steps = [{ method = "vocabulary", ratio = 0.5 }]

[recover]
epochs = 1
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpt")
    (folder / "gpt.py").write_text(MODEL, encoding="utf-8")
    (folder / "gpt.toml").write_text(RECIPE, encoding="utf-8")
    return folder / "gpt.toml"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return Cache(tmp_path_factory.mktemp("gpt-cache"))


@pytest.fixture(scope="module")
def subject(recipe: Path, cache: Cache) -> Subject:
    return subject_of(recipe, cache)


def test_all_prunings_are_tried_before_the_first_recovery(subject: Subject, cache: Cache) -> None:
    said: list[str] = []
    workers = create("local", Settings(shared=cache.folder, progress=lambda done, total, what: said.append(what)))
    found = recovered(subject, cache, workers)
    tries = [number for number, what in enumerate(said) if what.startswith("try ") and what != "try prunings"]
    prunes = [number for number, what in enumerate(said) if what.startswith("prune ") and what != "prune and recover"]
    assert len(tries) == 6
    assert max(tries) < min(prunes)
    assert set(found.refused) == {("fusion", "vocabulary50")}
    # Heads are gone in both stages, by both methods, and so is everything else but a constant width.
    by_id: dict[tuple[str, str], Any] = {
        (name, form.pruning.id if form.pruning else ""): getattr(form.module, "fusion", form.module)
        for name, forms in found.pruned.items()
        for form in forms
    }
    rows = {key: one.block.attn.c_attn.weight.shape for key, one in by_id.items() if key[0] != "sensor_encoder"}
    assert {key: list(shape) for key, shape in rows.items()} == {
        ("audio_encoder", "structured50"): [3 * 24, 24],
        ("audio_encoder", "hidden50"): [3 * 24, 48],
        ("fusion", "structured50"): [3 * 16, 16],
        ("fusion", "hidden50"): [3 * 16, 32],
    }
    assert list(found.kept) == [("sensor_encoder", "structured50")]
    (why,) = found.kept["sensor_encoder", "structured50"]
    assert why.startswith("'fixed' keeps its 32 channels: with fewer the stage does not run")
    assert by_id["sensor_encoder", "structured50"].free.out_features == 32


def test_a_check_says_that_both_stages_narrow_heads_included(recipe: Path, cache: Cache) -> None:
    found = edgefuse.check(recipe, cache=cache.folder)
    assert [finding.says for finding in found.findings if finding.stops] == []
    tried = {(one.stage, one.pruning): one for one in found.pruned if not one.says}
    assert {key: (one.widths, one.narrows) for key, one in tried.items()} == {
        # the stream, the heads, the layer between two others, and the feature or the result, which stays as it is
        ("audio_encoder", "structured50"): (4, 3),
        ("fusion", "structured50"): (4, 3),
        ("sensor_encoder", "structured50"): (3, 1),
        # the heads, and the layer between two others
        ("audio_encoder", "hidden50"): (2, 2),
        ("fusion", "hidden50"): (2, 2),
    }
    parameters = {stage.name: stage.parameters for stage in found.stages}
    assert all(one.parameters < 0.75 * parameters[one.stage] for one in tried.values())
    (refused,) = [finding for finding in found.findings if finding.about == "pruning"]
    assert refused.says.startswith("'fusion' is left unpruned: ")


def test_what_recovered_stays_while_pruning_gives_the_same_weights(
    subject: Subject, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rehearsal is made anew when the code of pruning changes; a recovery only if that gives another module."""
    from edgefuse.compiler.recovery import rehearsal

    workers = create("local", Settings(shared=cache.folder))
    recovered(subject, cache, workers)
    before = set((cache.folder / "pruned").iterdir())
    monkeypatch.setattr(rehearsal, "_SOURCES", ("prune",))
    recovered(subject, cache, workers)
    assert set((cache.folder / "pruned").iterdir()) == before


def test_a_stage_that_cannot_be_trained_is_refused_with_a_sentence(subject: Subject, cache: Cache) -> None:
    class Untrainable(torch.nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) if not self.training else super().forward(x[0, :1])

    stage = next(stage for stage in subject.stages if stage.spec.name == "sensor_encoder")
    module = torch.nn.Sequential(Untrainable(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 32)).eval()
    stages = tuple(replace(one, module=module) if one is stage else one for one in subject.stages)
    pruning = Pruning(steps=(PruningStep(method="structured", ratio=0.5),), recovery="alone")
    with pytest.raises(edgefuse.EdgefuseError, match=r"'sensor_encoder' cannot be pruned by structured50: got Runtime"):
        Rehearse(replace(subject, found=replace(subject.found, stages=stages)), cache)(("sensor_encoder", pruning))


def test_it_compiles_and_the_report_says_what_is_not_pruned(recipe: Path, cache: Cache, tmp_path: Path) -> None:
    result = compile(recipe, tmp_path, cache=cache.folder)
    assert len(result.bundles) == 1
    report = msgspec.json.decode(result.report_json.read_bytes())
    refused, kept = report["prunings"]
    assert (refused["stage"], refused["pruning"], refused["kept"]) == ("fusion", "vocabulary50", [])
    assert "holds nothing that 'vocabulary' can prune" in refused["refused"]
    assert (kept["stage"], kept["pruning"], kept["refused"]) == ("sensor_encoder", "structured50", "")
    page = result.report_html.read_text(encoding="utf-8")
    assert "What is not pruned" in page
    assert "keeps its 32 channels" in page


@pytest.mark.exhaustive
def test_both_stages_have_pruned_files_for_tflite(recipe: Path, cache: Cache, tmp_path: Path) -> None:
    with hurried():
        result = compile(recipe, tmp_path, targets=["tflite"], cache=cache.folder)
    report = msgspec.json.decode(result.report_json.read_bytes())
    held = {row["candidate"] for row in report["golden"] if row["target"] == "tflite" and row["ok"]}
    stages, prunings = ("audio_encoder", "fusion"), ("structured50", "hidden50")
    assert {f"{stage}.{pruning}.float" for stage in stages for pruning in prunings} <= held
