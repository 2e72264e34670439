"""A small seeded model of a sound that streams and a plain input: overlapping windows, a causal convolution, a mean."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from edgefuse.bundle.spec import ClassOutput, ModelSpec, audio, tensor
from edgefuse.models import FusionModel
from edgefuse.models.digits.layers import CausalConv
from edgefuse.models.fusion import masked

RATE_HZ, SAMPLES = 1000, 100
WINDOW, HOP = 8, 6
FRAMES, STEPS = 16, 4
"""Of a window, and the steps that take them."""
SIZE = 8


class Windows(nn.Module):
    """Overlapping windows of samples, each as four bands."""

    leading = "tail"

    def __init__(self) -> None:
        super().__init__()
        self.bands = nn.Conv1d(1, 4, WINDOW, HOP)

    def forward(self, samples: Tensor) -> Tensor:
        found: Tensor = torch.abs(self.bands(samples.unsqueeze(1))).transpose(1, 2)
        return found

    @property
    def states(self) -> dict[str, tuple[int, ...]]:
        return {"tail": (WINDOW - HOP,)}

    def step(self, chunk: Tensor, tail: Tensor) -> tuple[Tensor, ...]:
        heard = torch.cat([tail, chunk], dim=1)
        return self(heard), heard[:, chunk.shape[1] :]


class Listener(nn.Module):
    """A causal convolution over frames, and the mean of what it gives."""

    chunk = FRAMES // STEPS * HOP
    leading = ""

    def __init__(self) -> None:
        super().__init__()
        self.frontend = Windows()
        self.convolution = CausalConv(4, SIZE, 3)
        self.head = nn.Linear(SIZE, SIZE)

    def forward(self, frames: Tensor) -> Tensor:
        feature: Tensor = self.head(self.convolution(frames.transpose(1, 2)).mean(dim=2))
        return feature

    @property
    def states(self) -> dict[str, tuple[int, ...]]:
        return {"past": self.convolution.past, "sums": (STEPS, SIZE)}

    def step(self, chunk: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        past, sums = states
        heard, past = self.convolution.step(chunk.transpose(1, 2), past)
        sums = torch.cat([sums[:, 1:], heard.sum(dim=2).unsqueeze(1)], dim=1)
        return self.head(sums.sum(dim=1) / FRAMES), past, sums


class _Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, SIZE)

    def forward(self, values: Tensor) -> Tensor:
        return torch.relu(self.layer(values))


class _Fusion(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2 * SIZE, 3)

    def forward(self, features: Mapping[str, Tensor], present: Tensor) -> Tensor:
        kept = [masked(feature, present[:, column]) for column, feature in enumerate(features.values())]
        answer: Tensor = self.layer(torch.cat(kept, dim=1))
        return answer


def listening(encoder: nn.Module | None = None) -> FusionModel:
    """Return the model, of two optional modalities, with an encoder of sound of one's own if it is given."""
    torch.manual_seed(0)
    modalities = (
        audio("sound", sample_rate_hz=RATE_HZ, samples=SAMPLES, optional=True),
        tensor("right", shape=(1, 5), optional=True),
    )
    spec = ModelSpec(name="listening", modalities=modalities, outputs=(ClassOutput(labels=("a", "b", "c")),))
    return FusionModel(spec, {"sound": encoder or Listener(), "right": _Plain()}, _Fusion()).eval()
