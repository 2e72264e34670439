"""A fusion model of two inputs that splits into four stages, small enough to lower in every test."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from edgefuse.bundle import spec
from edgefuse.models.fusion import FusionModel
from edgefuse.stages.explicit import split
from edgefuse.stages.stage import TorchStage


class Scale(nn.Module):
    def forward(self, pixels: Tensor) -> Tensor:
        return pixels.permute(0, 3, 1, 2).to(torch.float32) / 255.0


class Camera(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.frontend = Scale()
        self.body = nn.Sequential(nn.Conv2d(1, 8, 3, 2, bias=False), nn.BatchNorm2d(8), nn.ReLU6(), nn.Conv2d(8, 4, 3))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x).mean(dim=(2, 3))
        return y


class Words(nn.Module):
    """Keeps the steps, so that its feature is as long as its input."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 4)

    def forward(self, ids: Tensor, length: Tensor) -> Tensor:
        steps = torch.arange(ids.shape[1], dtype=torch.int32).unsqueeze(0)
        y: Tensor = self.table(ids) * (steps < length.unsqueeze(1)).to(torch.float32).unsqueeze(2)
        return y


class Join(nn.Module):
    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.head = nn.Linear(8, classes)

    def forward(self, features: dict[str, Tensor], present: Tensor) -> Tensor:
        image = torch.where(present[:, :1] > 0, features["camera"], torch.zeros_like(features["camera"]))
        words = features["words"].sum(dim=1) * present[:, 1:]
        y: Tensor = self.head(torch.cat([image, words], dim=1))
        return y


def model_spec(classes: int = 3) -> spec.ModelSpec:
    camera = spec.image("camera", height=16, width=16, channels=1, optional=True)
    words = spec.text("words", tokenizer="t.json", max_length=12, variable=True, optional=True)
    labels = tuple("abcdef"[:classes])
    return spec.ModelSpec(name="two", modalities=(camera, words), outputs=(spec.ClassOutput(labels=labels),))


def fusion_model() -> FusionModel:
    torch.manual_seed(0)
    return FusionModel(model_spec(), {"camera": Camera(), "words": Words()}, Join())


@pytest.fixture(scope="session")
def model() -> FusionModel:
    return fusion_model()


@pytest.fixture(scope="session")
def stages(model: FusionModel) -> tuple[TorchStage, ...]:
    return split(model)


@pytest.fixture(scope="session")
def stage_by_name(stages: tuple[TorchStage, ...]) -> dict[str, TorchStage]:
    return {stage.spec.name: stage for stage in stages}
