"""A user's own two-input model, from outside the package: a small picture and a sensor trace of varying length.

The labels are the model's own answers, so the reference is always right and every change is a drop.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from edgefuse.bundle import spec
from edgefuse.datasets.sample import Sample, Splits
from edgefuse.models.fusion import FusionModel

STEPS = 32
Array: TypeAlias = npt.NDArray[Any]


class ImageEncoder(nn.Module):
    """Two convolutions over uint8 [B, 16, 16, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 64, 3, 2, 1), nn.ReLU(), nn.Flatten()
        )
        self.head = nn.Linear(64 * 16, 32)

    def forward(self, pixels: Tensor) -> Tensor:
        x = pixels.permute(0, 3, 1, 2).to(torch.float32) / 255.0
        encoded: Tensor = self.head(self.body(x))
        return encoded


class SensorEncoder(nn.Module):
    """A mean over the valid steps of float32 [B, up to 32, 8]."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 256)
        self.second = nn.Linear(256, 32)

    def forward(self, values: Tensor, length: Tensor) -> Tensor:
        steps = torch.arange(values.shape[1], dtype=torch.int32).unsqueeze(0)
        valid = (steps < length.unsqueeze(1)).to(torch.float32).unsqueeze(2)
        hidden = torch.relu(self.first(values)) * valid
        mean: Tensor = self.second(hidden.sum(dim=1) / valid.sum(dim=1).clamp(min=1.0))
        return mean


class Concatenate(nn.Module):
    """Features side by side, absent ones as zeros, then two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(66, 128), nn.ReLU(), nn.Linear(128, 4))

    def forward(self, features: Mapping[str, Tensor], present: Tensor) -> Tensor:
        joined = torch.cat([features["image"], features["sensor"], present], dim=1)
        logits: Tensor = self.layers(joined)
        return logits


def build() -> FusionModel:
    torch.manual_seed(7)
    model = FusionModel(
        spec.ModelSpec(
            name="pair",
            modalities=(
                spec.image("image", height=16, width=16, channels=1, optional=True),
                spec.tensor("sensor", shape=(1, spec.Bounded(max=STEPS), 8), length=True, optional=True),
            ),
            outputs=(spec.ClassOutput(labels=("north", "east", "south", "west")),),
        ),
        {"image": ImageEncoder(), "sensor": SensorEncoder()},
        Concatenate(),
    ).eval()
    _balance(model)
    return model


def _balance(model: FusionModel) -> None:
    """Centre the untrained model's logits, so that it answers with every class and changes show."""
    tensors = [inputs(*raw) for raw in raws(np.random.default_rng(99), 64)]
    last = model.fusion.get_submodule("layers.2")
    assert isinstance(last, nn.Linear)
    with torch.inference_mode():
        logits = torch.cat([model(one, torch.ones(1, 2)) for one in tensors])
    with torch.no_grad():
        last.bias.sub_(logits.mean(dim=0)).div_(logits.std())
        last.weight.div_(logits.std())


def data() -> Splits:
    model = build()
    splits = {name: samples(model, seed, count) for seed, (name, count) in enumerate(SIZES.items())}
    return Splits(**splits, digest="pair-3")


SIZES = {"calibration": 40, "validation": 60, "test": 80, "train": 256}


def raws(rng: np.random.Generator, count: int) -> Iterator[tuple[Array, Array]]:
    """Yield pictures of one brightness and contrast each, and traces around one level each."""
    for _ in range(count):
        length = int(rng.integers(4, STEPS + 1))
        noise = rng.integers(0, 256, (16, 16)).astype(np.float32)
        picture = (noise * rng.uniform(0.1, 1.0) * np.linspace(rng.uniform(), rng.uniform(), 16)).astype(np.uint8)
        trace = rng.standard_normal((1, length, 8)).astype(np.float32) + rng.normal(0, 2, 8).astype(np.float32)
        yield picture, trace


def inputs(picture: Array, trace: Array) -> dict[str, Tensor]:
    return {
        "image.pixels": torch.from_numpy(picture[None, :, :, None]),
        "sensor.values": torch.from_numpy(trace),
        "sensor.length": torch.tensor([trace.shape[1]], dtype=torch.int32),
    }


def samples(model: FusionModel, seed: int, count: int) -> list[Sample]:
    found = []
    for picture, trace in raws(np.random.default_rng(seed), count):
        with torch.inference_mode():
            logits = model(inputs(picture, trace), torch.ones(1, 2))
        found.append(Sample(inputs={"image": picture, "sensor": trace}, target=int(logits.argmax())))
    return found
