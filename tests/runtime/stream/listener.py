"""A small model that hears and sees: loudness in sixteen parts of a tenth of a second, and the light of a picture."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgefuse.bundle.spec import ClassOutput, ModelSpec, audio, image
from edgefuse.models.fusion import FusionModel

RATE_HZ, SAMPLES = 16_000, 1_600


class Ear(nn.Module):
    """Encode sound, float32 [B, 1600]."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(16, 4)

    def forward(self, samples: Tensor) -> Tensor:
        y: Tensor = self.head((samples.reshape(-1, 16, 100) ** 2).mean(dim=2))
        return y


class Eye(nn.Module):
    """Encode a picture, uint8 [B, 4, 4, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(16, 4)

    def forward(self, pixels: Tensor) -> Tensor:
        y: Tensor = self.head(pixels.to(torch.float32).flatten(1) / 255)
        return y


class Both(nn.Module):
    """Tell from what is there."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 2)

    def forward(self, features: dict[str, Tensor], present: Tensor) -> Tensor:
        ear, eye = (
            torch.where(present[:, place : place + 1] > 0, features[name], torch.zeros_like(features[name]))
            for place, name in enumerate(("sound", "picture"))
        )
        y: Tensor = self.head(ear + eye)
        return y


def model() -> FusionModel:
    """Return the model with seeded weights; the sound is required."""
    modalities = (
        audio("sound", sample_rate_hz=RATE_HZ, samples=SAMPLES),
        image("picture", height=4, width=4, channels=1, optional=True),
    )
    spec = ModelSpec(name="listener", modalities=modalities, outputs=(ClassOutput(labels=("loud", "quiet")),))
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        return FusionModel(spec, {"sound": Ear(), "picture": Eye()}, Both()).eval()
