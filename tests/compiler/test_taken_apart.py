"""How a model was taken apart stands in what a compile reports; what two stages share is stored once."""

from __future__ import annotations

import json
from pathlib import Path

from edgefuse.bundle.reader import open_bundle
from edgefuse.compiler import compile
from edgefuse.compiler.report.encoding import parse

MODULE = '''
import numpy as np
import torch
from torch import nn

from edgefuse.bundle import spec
from edgefuse.datasets import Sample, Splits

OUTPUTS = (spec.EmbeddingOutput(size=4),)


class AtOnce(nn.Module):
    """Nearly all is computed on everything; one input has a logarithm, the other is ids of a table by hand."""

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.randn(30, 8))
        self.body = nn.Sequential(nn.Linear(16, 256), nn.ReLU(), nn.Linear(256, 4))

    def forward(self, pressure, kind):
        known = nn.functional.embedding(kind, self.table).mean(1)
        return self.body(torch.cat([torch.log(pressure), known], 1))


class Siamese(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.head = nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 16)), nn.Linear(16, 4)

    def forward(self, left, right):
        return self.head((self.encoder(left) - self.encoder(right)).abs())


def described(name, *modalities):
    return spec.ModelSpec(name=name, modalities=modalities, outputs=OUTPUTS, metric="mse")


def at_once():
    torch.manual_seed(0)
    inputs = spec.tensor("pressure", shape=(1, 8)), spec.tensor("kind", shape=(1, 3), dtype="int64")
    return AtOnce().eval(), described("at-once", *inputs)


def siamese():
    torch.manual_seed(0)
    return Siamese().eval(), described("siamese", *(spec.tensor(name, shape=(1, 6)) for name in ("left", "right")))


def splits(model, make):
    rng = np.random.default_rng(0)

    def sample():
        inputs = make(rng)
        with torch.no_grad():
            answer = model(*map(torch.from_numpy, inputs.values()))
        return Sample(inputs, answer[0].numpy())

    items = [sample() for _ in range(30)]
    return Splits(calibration=items[:10], validation=items[10:20], test=items[20:], digest=type(model).__name__)


def pressures():
    return splits(
        at_once()[0],
        lambda rng: {"pressure": rng.uniform(0.5, 9, (1, 8)).astype(np.float32), "kind": rng.integers(0, 30, (1, 3))},
    )


def pairs():
    return splits(
        siamese()[0], lambda rng: {name: rng.standard_normal((1, 6), np.float32) for name in ("left", "right")}
    )
'''
RECIPE = """
[model]
factory = "apart_module:{model}"
[data]
factory = "apart_module:{data}"
[compile]
targets = ["onnx"]
[search]
max_drop = 0.9
[schemes]
"""


def recipe(folder: Path, model: str, data: str, *stages: str) -> Path:
    (folder / "apart_module.py").write_text(MODULE, encoding="utf-8")
    schemes = "".join(f'{stage} = ["float"]\n' for stage in stages)
    (folder / "recipe.toml").write_text(RECIPE.format(model=model, data=data) + schemes, encoding="utf-8")
    return folder / "recipe.toml"


def test_why_a_model_is_one_stage_stands_in_the_report(tmp_path: Path) -> None:
    result = compile(recipe(tmp_path, "at_once", "pressures", "model"), tmp_path / "out", cache=tmp_path / "cache")
    report = parse(json.loads(result.report_json.read_text(encoding="utf-8")))
    assert report.model is not None
    assert report.model.stages == ("model",)
    assert report.model.single_modality_share is not None
    assert report.model.single_modality_share < 0.1
    assert report.model.notes[0].startswith("one stage, because ")
    said = f"Stages: {report.model.notes[0]}."
    assert said in report.notes
    assert f"note: {said}" in result.summary
    page = result.report_html.read_text(encoding="utf-8")
    assert "Stages: one stage, because " in page
    assert "pressure+kind, 1 stage, 0% of the arithmetic sees one modality" in page


def test_the_encoder_that_two_inputs_share_is_stored_once(tmp_path: Path) -> None:
    stages = ("left_encoder", "right_encoder", "fusion")
    result = compile(recipe(tmp_path, "siamese", "pairs", *stages), tmp_path / "out", cache=tmp_path / "cache")
    with open_bundle(result.bundles[0]) as bundle:
        manifest = bundle.manifest
        files = [entry.path for entry in manifest.files if entry.path.startswith("stages/")]
    assert [stage.name for stage in manifest.stages] == list(stages)
    assert files == ["stages/fusion.float.onnx", "stages/left_encoder.float.onnx"]
    assert len(manifest.candidates) == 3
