"""A model with two outputs: the second, which has no targets, is held to torch and its losses are said."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgefuse.bundle import spec
from edgefuse.compiler import compile
from edgefuse.compiler.evaluation.drops import difference
from edgefuse.compiler.report.encoding import parse

MODULE = """
import numpy as np
import torch
from torch import nn

from edgefuse.bundle import spec
from edgefuse.datasets import Sample, Splits
from edgefuse.models import FusionModel


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(32, 160), nn.ReLU(), nn.Linear(160, 32))

    def forward(self, x):
        return self.layers(x)


class Heads(nn.Module):
    \"\"\"The first head sees one number alone; the classes of the second are neighbours.\"\"\"

    def __init__(self):
        super().__init__()
        self.second = nn.Linear(32, 12)

    def forward(self, features, present):
        x = features["x"]
        sure = 1000 * torch.cat([torch.ones_like(x[:, :1]), torch.zeros_like(x[:, :1])], 1)
        return sure, self.second(x) * 1e-3


def build():
    torch.manual_seed(0)
    outputs = spec.ClassOutput(labels=("a", "b")), spec.ClassOutput(name="kind", labels=tuple("abcdefghijkl"))
    described = spec.ModelSpec(name="two", modalities=(spec.tensor("x", shape=(1, 32)),), outputs=outputs)
    return FusionModel(described, {"x": Encoder()}, Heads())


def data():
    rng = np.random.default_rng(0)
    items = [Sample({"x": rng.standard_normal((1, 32), np.float32)}, 0) for _ in range(236)]
    return Splits(calibration=items[:16], validation=items[16:36], test=items[36:], train=[], digest="two-1")
"""
RECIPE = """
[model]
factory = "two_outputs:build"
[data]
factory = "two_outputs:data"
[compile]
targets = ["onnx"]
[search]
max_drop = 0.05
max_fusion_passes = 3
[schemes]
x_encoder = ["dynamic_wi8_af32"]
"""


def test_what_the_second_output_loses_is_said(tmp_path: Path) -> None:
    (tmp_path / "two_outputs.py").write_text(MODULE, encoding="utf-8")
    (tmp_path / "two.toml").write_text(RECIPE, encoding="utf-8")
    result = compile(tmp_path / "two.toml", tmp_path / "out", cache=tmp_path / "cache")
    report = parse(json.loads(result.report_json.read_bytes()))
    (bundle,) = report.bundles
    rungs = {rung.stages["x_encoder"].scheme: rung for rung in bundle.rungs}
    small = next(rung for scheme, rung in rungs.items() if scheme != "float")
    assert small.accuracy["x"] == 1.0  # the first output loses nothing
    assert 0 < small.other_outputs["kind"] < 0.5
    share = f"{small.other_outputs['kind']:.1%}"
    says = f"onnx, {small.name}: the output 'kind', which the metric does not judge, is another class than torch's"
    assert f"{says} for {share} of the test items." in report.notes
    if "float" in rungs:
        assert rungs["float"].other_outputs == {"kind": 0.0}


@pytest.mark.parametrize(
    ("output", "found"),
    [
        (spec.ClassOutput(labels=("a", "b")), 0.5),
        (spec.EmbeddingOutput(size=2), pytest.approx(np.sqrt(1.0 / 5.0))),
    ],
)
def test_a_difference_counts_classes_or_weighs_values(output: spec.Output, found: float) -> None:
    reference = np.array([[0.0, 1.0], [2.0, 0.0]], np.float32)
    candidate = np.array([[1.0, 1.0], [2.0, 0.0]], np.float32)
    assert difference(output, reference, candidate) == found
    assert difference(output, np.zeros_like(reference), np.zeros_like(reference)) == 0
