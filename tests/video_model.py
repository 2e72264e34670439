"""A small model that watches: the first of two classes is what brightens. Real stages, no training."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgefuse.bundle.spec import ClassOutput, ModelSpec, video
from edgefuse.models.fusion import FusionModel

FRAMES, HEIGHT, WIDTH = 6, 4, 5


class Watcher(nn.Module):
    """Encode a clip, uint8 [B, frames, 4, 5, 3] of which `length` [B] count, by how its light changes."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps", torch.arange(FRAMES, dtype=torch.int32).unsqueeze(0), persistent=False)
        self.steps: Tensor
        self.head = nn.Linear(3, 4)

    def forward(self, frames: Tensor, length: Tensor) -> Tensor:
        levels = frames.to(torch.float32).mean(dim=(2, 3)) / 255
        steps = self.steps[:, : frames.shape[1]]
        last = (steps == length.unsqueeze(1) - 1).to(torch.float32).unsqueeze(2)
        y: Tensor = self.head((levels * last).sum(dim=1) - levels[:, 0])
        return y


class Told(nn.Module):
    """Tell from the only feature."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 2)

    def forward(self, features: dict[str, Tensor], present: Tensor) -> Tensor:
        y: Tensor = self.head(features["clip"])
        return y


def model(*, variable: bool) -> FusionModel:
    """Return the model with seeded weights, for clips of any length up to six frames, or of six."""
    clip = video("clip", height=HEIGHT, width=WIDTH, frames=FRAMES, fps=2, variable=variable, length=True)
    spec = ModelSpec(name="watcher", modalities=(clip,), outputs=(ClassOutput(labels=("brightens", "darkens")),))
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        return FusionModel(spec, {"clip": Watcher()}, Told()).eval()
