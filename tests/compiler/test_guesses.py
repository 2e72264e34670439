"""A subset in which the reference only guesses binds no budget, and the report says so."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import edgefuse
from edgefuse.bundle import spec
from edgefuse.compiler.report.encoding import parse
from edgefuse.compiler.report.schema import Report
from edgefuse.datasets import Sample, Splits
from edgefuse.models import FusionModel


class Sides(nn.Module):
    """Tells the class from the left side; the right one, alone, says class 0 or 1 as it falls."""

    def forward(self, features: dict[str, Tensor], present: Tensor) -> Tensor:
        left = features["left"] * present[:, :1]
        return 10 * left + features["right"] * present[:, 1:] * (1 - present[:, :1])


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        return y


def built() -> FusionModel:
    torch.manual_seed(0)
    sides = tuple(spec.tensor(name, shape=(1, 8), optional=True) for name in ("left", "right"))
    described = spec.ModelSpec(
        name="sides", modalities=sides, outputs=(spec.ClassOutput(labels=("one", "two", "three")),)
    )
    return FusionModel(described, {"left": Encoder(), "right": Encoder()}, Sides()).eval()


def splits(model: FusionModel) -> Splits:
    rng, items = np.random.default_rng(0), []
    for _ in range(160):
        inputs = {name: rng.standard_normal((1, 8), np.float32) for name in ("left", "right")}
        with torch.no_grad():
            wanted = int(model.encoders["left"](torch.from_numpy(inputs["left"])).argmax())
        items.append(Sample(inputs, wanted))
    return Splits(calibration=items[:20], validation=items[20:90], test=items[90:], digest="sides")


def compiled(folder: Path, subsets: Sequence[str]) -> Report:
    model = built()
    result = edgefuse.compile(
        model,
        model.spec,
        splits(model),
        out=folder,
        targets=["onnx"],
        cache=folder / "cache",
        schemes={"left_encoder": ["float"], "right_encoder": ["float"], "fusion": ["float"]},
        max_fusion_passes=2,
        subsets=list(subsets),
    )
    return parse(json.loads(result.report_json.read_bytes()))


@pytest.mark.parametrize("asked", [(), ("left+right", "right")])
def test_a_guess_binds_nothing_unless_the_recipe_names_it(tmp_path: Path, asked: tuple[str, ...]) -> None:
    report = compiled(tmp_path, asked)
    said = [note for note in report.notes if "binds nothing" in note]
    assert set(report.reference.accuracy) == {"left+right", "left", "right"}
    assert len(said) == (0 if asked else 1)
    assert asked or said[0].startswith("'right' binds nothing: the reference is right there in ")
