"""One target's failure is its own: the others get their bundles, and nothing long is done before what fails."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgefuse.bundle.reader import open_bundle
from edgefuse.cli import main
from edgefuse.compiler import compile
from edgefuse.compiler.report.encoding import parse
from edgefuse.errors import ExportError

from .conftest import Compiled

MODULE = '''
import numpy as np
import torch
from torch import nn

from edgefuse.bundle import spec
from edgefuse.datasets import Sample, Splits
from edgefuse.models import FusionModel

LABELS = ("low", "high")


class Pooling(nn.Module):
    """A frontend-free encoder; `how` is what TFLite lacks, or what nothing has."""

    def __init__(self, how):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.how = nn.Linear(6, 8), how

    def forward(self, values):
        made = self.layer(values)
        if self.how == "determinant":
            return torch.linalg.det(made)[:, None] * made[:, 0]
        return torch.linalg.eigvals(made[:, :8]).real


class Fusion(nn.Linear):
    def forward(self, features, present):
        return super().forward(features["motion"])


def model(how):
    motion = spec.tensor("motion", shape=(1, 8, 6))
    described = spec.ModelSpec(name="pooled", modalities=(motion,), outputs=(spec.ClassOutput(labels=LABELS),))
    return FusionModel(described, {"motion": Pooling(how)}, Fusion(8, 2))


def determinant():
    return model("determinant")


def eigenvalues():
    return model("eigenvalues")


def data():
    rng = np.random.default_rng(0)
    items = [Sample({"motion": rng.standard_normal((1, 8, 6), np.float32)}, int(n % 2)) for n in range(48)]
    return Splits(calibration=items[:8], validation=items[8:24], test=items[24:40], train=items[40:], digest="pooled")
'''

RECIPE = """
[model]
factory = "pooled_model:{factory}"
[data]
factory = "pooled_model:data"
[compile]
targets = ["onnx", "tflite"]
[search]
max_drop = 0.9
max_fusion_passes = 2
[[prune.variants]]
stages = ["motion_encoder"]
steps = [{{ method = "structured", ratio = 0.5 }}]
[recover]
epochs = 1000
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pooled_model.py").write_text(MODULE)
    return tmp_path


def recipe(folder: Path, factory: str, *, pruned: bool) -> Path:
    path = folder / f"{factory}.toml"
    text = RECIPE.format(factory=factory)
    path.write_text(text if pruned else text.partition("[[prune")[0])
    return path


def test_a_model_that_tflite_refuses_still_gets_its_onnx_bundle(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEFUSE_CACHE", str(folder / "cache"))
    code = main(["compile", str(recipe(folder, "determinant", pruned=False)), "--out", str(folder / "out")])
    assert code == 1
    report = parse(json.loads((folder / "out" / "report.json").read_text()))
    assert [bundle.target for bundle in report.bundles] == ["onnx"]
    assert set(report.failed) == {"tflite"}
    assert "motion_encoder" in report.failed["tflite"]
    with open_bundle(folder / "out" / "pooled-onnx.edgefuse") as bundle:
        bundle.verify()
    assert not (folder / "out" / "pooled-tflite.edgefuse").exists()
    assert "tflite: no bundle." in capsys.readouterr().out


def test_a_stage_that_no_target_takes_fails_before_anything_recovers(folder: Path) -> None:
    told: list[str] = []
    with pytest.raises(ExportError, match="motion_encoder"):
        compile(
            recipe(folder, "eigenvalues", pruned=True),
            folder / "out",
            cache=folder / "cache",
            progress=lambda _done, _total, what: told.append(what),
        )
    assert any("lower" in what for what in told)
    assert not any("recover" in what or "preprocess" in what for what in told)
    assert not (folder / "out").exists()


def test_a_bundle_that_cannot_be_written_leaves_the_others(joined: Compiled, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "pair-tflite.edgefuse" / "something").mkdir(parents=True)
    result = compile(joined.recipe, out, targets=["onnx", "tflite"], cache=joined.cache)
    assert [bundle.name for bundle in result.bundles] == ["pair-onnx.edgefuse"]
    assert "pair-tflite.edgefuse" in result.failed["tflite"]
    found = parse(json.loads(result.report_json.read_bytes()))
    assert [bundle.target for bundle in found.bundles] == ["onnx"]
    assert found.failed == dict(result.failed)
