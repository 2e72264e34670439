"""Quantized files are held to inputs like the user's: what only noise breaks is not called broken."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgefuse.bundle import spec
from edgefuse.bundle.scheme import Scheme
from edgefuse.compiler.candidates.build import Hold
from edgefuse.compiler.candidates.built import Built
from edgefuse.compiler.candidates.golden import Checked, golden_inputs
from edgefuse.compiler.candidates.toolchain import Calibration, Quantizable, Toolchain
from edgefuse.datasets.cache import Cache
from edgefuse.models.fusion import FusionModel
from edgefuse.stages.explicit import split
from edgefuse.stages.stage import Array, Feeds, TorchStage
from edgefuse.stages.values import observed, with_values

STATIC = {"onnx": Scheme(name="static_wi8_ai8", activation="u8"), "tflite": Scheme(name="static_wi8_ai8")}
BOXES = spec.tensor("boxes", shape=(1, 16, 4))


class Near(nn.Module):
    """Answers boxes by how near they are to the corner: a coordinate below 0 would count a hundred times as much."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 96), nn.Linear(96, 64)

    def forward(self, values: Tensor) -> Tensor:
        y: Tensor = self.second(torch.relu(self.first(torch.exp(-6 * values).flatten(1))))
        return y


class Answer(nn.Module):
    def forward(self, features: Mapping[str, Tensor], present: Tensor) -> Tensor:
        return features["boxes"]


@pytest.fixture(scope="module")
def model() -> FusionModel:
    torch.manual_seed(0)
    described = spec.ModelSpec(name="near", modalities=(BOXES,), outputs=(spec.EmbeddingOutput(size=64),))
    return FusionModel(described, {"boxes": Near()}, Answer()).eval()


def boxes() -> Iterator[Array]:
    rng = np.random.default_rng(0)
    return (rng.uniform(0.1, 1.0, (1, 16, 4)).astype(np.float32) for _ in range(32))


def feeds() -> Iterator[Feeds]:
    return ({"values": one} for one in boxes())


def held(tools: Toolchain, model: FusionModel, stages: tuple[TorchStage, ...], built: Built) -> Checked:
    found = Hold(golden_inputs(stages, model.spec), tools.cache)((tools.target.name, built))
    assert isinstance(found, Checked)
    return found


@pytest.mark.parametrize("target", STATIC)
def test_static_int8_of_a_stage_that_takes_boxes_is_not_called_broken_for_what_noise_does_to_it(
    model: FusionModel, target: str, tmp_path: Path
) -> None:
    tools, stages = Toolchain.of(target, Cache(tmp_path)), split(model)
    source = tools.lower(stages[0])
    built = tools.quantize(Quantizable(stages[0], source, Calibration(feeds, "boxes")), STATIC[target])
    assert isinstance(built, Built), built
    noise = held(tools, model, stages, built).row
    alike = held(tools, model, with_values(stages, observed([{"boxes.values": one} for one in boxes()])), built).row
    assert not noise.ok  # which is why generated inputs follow the calibration samples
    assert alike.ok
    assert alike.snr_db is not None
    assert alike.snr_db > 15


class Faint(Near):
    """Answers numbers so small that a file's rounding is as large, as encoders of random weights do."""

    def forward(self, values: Tensor) -> Tensor:
        return super().forward(values) * 1e-7


@pytest.mark.parametrize("target", STATIC)
def test_what_agrees_as_float_files_have_to_is_not_called_broken(target: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    described = spec.ModelSpec(name="faint", modalities=(BOXES,), outputs=(spec.EmbeddingOutput(size=64),))
    model = FusionModel(described, {"boxes": Faint()}, Answer()).eval()
    tools, stages = Toolchain.of(target, Cache(tmp_path)), split(model)
    source = tools.lower(stages[0])
    built = tools.quantize(Quantizable(stages[0], source, Calibration(feeds, "boxes")), STATIC[target])
    assert isinstance(built, Built), built
    found = held(tools, model, stages, built)
    assert found.row.ok
    assert found.tolerance.min_snr_db is None
