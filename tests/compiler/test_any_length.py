"""Models whose inputs have any length or are ids, and whose fusion hands features on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgefuse.bundle.reader import open_bundle
from edgefuse.compiler import compile
from edgefuse.compiler.report.encoding import parse
from edgefuse.measure.agreement import check

MODULE = """
import numpy as np
import torch
from torch import nn

from edgefuse.bundle import spec
from edgefuse.datasets import Sample, Splits
from edgefuse.models import FusionModel

SEQUENCE = spec.tensor("sequence", shape=(1, spec.Bounded(max=24), 4), length=True)
IDS = spec.tensor("ids", shape=(1, 6), dtype="int64")


class State(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.GRU(4, 8, batch_first=True)

    def forward(self, x, length):
        return self.layer(x)[1][0]


class Mean(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 8)

    def forward(self, x, length):
        return self.layer(x).relu().mean(1)


class Table(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.other = nn.Embedding(50, 8), nn.Embedding(9, 8)  # ids reach beyond the smaller table

    def forward(self, ids):
        return self.table(ids).mean(1) + self.other.weight.sum(0)


class Both(nn.Module):
    def forward(self, features, present):
        return features["sequence"], features["ids"]


def model(encoder):
    torch.manual_seed(0)
    outputs = spec.EmbeddingOutput(name="a", size=8), spec.EmbeddingOutput(name="b", size=8)
    described = spec.ModelSpec(name="any", modalities=(SEQUENCE, IDS), outputs=outputs, metric="mse")
    return FusionModel(described, {"sequence": encoder, "ids": Table()}, Both())


def state():
    return model(State())


def mean():
    return model(Mean())


def data():
    rng = np.random.default_rng(0)
    items = [
        Sample(
            {
                "sequence": rng.uniform(0, 1, (1, int(rng.integers(3, 25)), 4)).astype(np.float32),
                "ids": rng.integers(5, 50, (1, 6)),
            },
            np.zeros(8, np.float32),
        )
        for _ in range(40)
    ]
    return Splits(calibration=items[:12], validation=items[12:26], test=items[26:], train=[], digest="any")
"""

RECIPE = """
[model]
factory = "any_model:{factory}"
[data]
factory = "any_model:data"
[compile]
targets = ["onnx", "tflite"]
[search]
max_drop = 0.9
max_fusion_passes = 1
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "any_model.py").write_text(MODULE)
    for factory in ("state", "mean"):
        (tmp_path / f"{factory}.toml").write_text(RECIPE.format(factory=factory))
    return tmp_path


def test_both_targets_hold_golden_cases_of_several_lengths_that_look_like_the_data(folder: Path) -> None:
    result = compile(folder / "state.toml", folder / "out", cache=folder / "cache")
    assert not result.failed
    for path in result.bundles:
        with open_bundle(path) as bundle:
            assert all(one.ok for one in check(bundle))
            stage = bundle.manifest.stages[0].name
            cases = [case for case in bundle.manifest.golden if case.stage == stage]
            steps = {tensor.shape[1] for case in cases for tensor in case.inputs if tensor.port == "values"}
            assert max(steps) == 24
            assert min(steps) < 6
            assert len(steps) > 3


def test_a_mean_over_padding_costs_the_target_that_pads_its_bundle_and_no_other(folder: Path) -> None:
    result = compile(folder / "mean.toml", folder / "out", cache=folder / "cache")
    assert [path.name for path in result.bundles] == ["any-onnx.edgefuse"]
    assert "the stage 'sequence_encoder' depends on padding" in result.failed["tflite"]
    found = parse(json.loads(result.report_json.read_bytes()))
    assert set(found.failed) == {"tflite"}
