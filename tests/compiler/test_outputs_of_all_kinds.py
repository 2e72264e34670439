"""A model with an output of each kind that is no class, compiled for every target, verified and run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import edgefuse
from edgefuse.cli import main
from edgefuse.compiler import CompileResult, compile
from edgefuse.compiler.recipe.factory import call_factory
from edgefuse.compiler.report.encoding import parse
from tests.compiler.hurry import hurried

MODULE = """
import numpy as np
import torch
from torch import nn

from edgefuse.bundle import spec
from edgefuse.datasets import Sample, Splits
from edgefuse.models import FusionModel

LABELS = spec.LabelsOutput(name="labels", labels=("dog", "cat", "car", "tree"))
SAID = spec.TokensOutput(name="said", steps=6, labels=tuple("_abcdefg"), blank=0, metric="character_error_rate")
MAP = spec.ArrayOutput(name="map", shape=(4, 4), metric="all_kinds:worst_of_each")
PLACE = spec.EmbeddingOutput(name="place", size=16, metric="recall@3")
SPEC = spec.ModelSpec(
    name="kinds", modalities=(spec.tensor("x", shape=(1, 32)),), outputs=(LABELS, SAID, MAP, PLACE)
)


def worst_of_each(outputs, targets):
    return np.abs(outputs - targets).reshape(len(outputs), -1).max(axis=1)


worst_of_each.higher_is_better = False


class Heads(nn.Module):
    def __init__(self):
        super().__init__()
        self.labels, self.said, self.map, self.place = (nn.Linear(48, size) for size in (4, 48, 16, 16))

    def forward(self, features, present):
        x = features["x"]
        return self.labels(x), self.said(x).reshape(-1, 6, 8), self.map(x).reshape(-1, 4, 4), self.place(x)


def build():
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(32, 256), nn.ReLU(), nn.Linear(256, 48), nn.ReLU())
    return FusionModel(SPEC, {"x": encoder}, Heads()).eval()


def data():
    model, rng = build(), np.random.default_rng(0)
    samples = []
    for x in rng.standard_normal((140, 1, 32), np.float32):
        with torch.no_grad():
            answers = model({"x.values": torch.from_numpy(x)}, torch.ones(1, 1))
        labels, said, map, place = (answer[0].numpy() for answer in answers)
        said = said + rng.normal(0, 0.02, said.shape)
        target = {
            "labels": labels + rng.normal(0, 0.02, 4) > 0,
            "said": SAID.text(said.argmax(1).tolist()),
            "map": map + rng.normal(0, 0.05, map.shape),
            "place": int(place[:4].argmax()),
        }
        samples.append(Sample({"x": x}, target))
    return Splits(samples[:16], samples[16:60], samples[60:], digest="kinds-1")
"""
RECIPE = """
[model]
factory = "all_kinds:build"
[data]
factory = "all_kinds:data"
[compile]
targets = {targets}
[search]
objective = "size"
max_fusion_passes = 4
[search.max_drop]
labels = 0.05
said = 0.05
map = "20 %"
place = 0.05
[schemes]
x_encoder = ["{scheme}"]
fusion = []
"""
METRICS = {"said": "character_error_rate", "map": "all_kinds:worst_of_each", "place": "recall@3"}
SCHEMES = {"onnx": "dynamic_wi8_af32", "tflite": "dynamic_wi8_af32", "openvino": "static_wi8_ai8.s8"}


@pytest.fixture(scope="module", params=[("openvino",), ("onnx", "tflite")], ids="+".join)
def result(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> CompileResult:
    folder = tmp_path_factory.mktemp("kinds")
    (folder / "all_kinds.py").write_text(MODULE, encoding="utf-8")
    recipe = folder / "recipe.toml"
    said = {"{targets}": json.dumps(request.param), "{scheme}": SCHEMES[request.param[0]]}
    recipe.write_text(RECIPE.replace(*said.popitem()).replace(*said.popitem()), encoding="utf-8")
    with hurried():
        return compile(recipe, folder / "out", cache=folder / "cache")


def test_each_output_is_judged_by_its_own_metric_within_its_own_budget(result: CompileResult) -> None:
    report = parse(json.loads(result.report_json.read_bytes()))
    assert report.reference.metric == "macro_f1"
    outputs = report.reference.outputs
    assert {name: one.metric for name, one in outputs.items()} == METRICS
    assert {name for name, one in outputs.items() if one.lower_is_better} == {"said", "map"}
    assert 0 < outputs["said"].accuracy["x"] < 0.2
    assert outputs["map"].limits["x"] == pytest.approx(0.2 * outputs["map"].accuracy["x"])
    for bundle in report.bundles:
        assert bundle.within_budget
        assert bundle.rungs[0].stages["x_encoder"].scheme == SCHEMES[bundle.target]
        for rung in bundle.rungs:
            for name, one in rung.outputs.items():
                lost = one.accuracy["x"] - outputs[name].accuracy["x"]
                low, high = one.drop_ci95["x"]
                assert low <= (lost if outputs[name].lower_is_better else -lost) <= high
            assert set(rung.outputs) == set(METRICS)


def test_bundles_verify_and_answer_like_torch(
    result: CompileResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x = np.linspace(-2, 2, 32, dtype=np.float32).reshape(1, 32)
    np.save(tmp_path / "x.npy", x)
    model = call_factory(result.report_json.parents[1] / "recipe.toml", "all_kinds:build")
    with torch.no_grad():
        expected = model({"x.values": torch.from_numpy(x)}, torch.ones(1, 1))
    for bundle in result.bundles:
        assert main(["verify", str(bundle)]) == 0
        capsys.readouterr()
        assert main(["run", str(bundle), "--x", str(tmp_path / "x.npy"), "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        found = {name: np.array(value) for name, value in told["outputs"].items()}
        for output, wanted in zip(model.spec.outputs, expected, strict=True):
            assert np.linalg.norm(found[output.name] - wanted.numpy()) < 0.05 * np.linalg.norm(wanted)  # it is in int8
        labels, said = model.spec.outputs[:2]
        assert told["text"] == said.text(found["said"][0].argmax(1).tolist()) != ""
        logits = dict(zip(labels.labels, found["labels"][0], strict=True))
        assert set(told["labels"]) == {name for name, logit in logits.items() if logit > 0}
        with edgefuse.load(bundle) as pipeline:
            prediction = pipeline(x=x)
        assert prediction.embedding.shape == (16,)
        assert prediction.outputs["map"].shape == (1, 4, 4)
