"""Whether a stage depends on padding is measured in torch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from edgefuse.bundle import spec
from edgefuse.models.fusion import FusionModel
from edgefuse.stages.explicit import split
from edgefuse.stages.padding import dependences, depends_on_padding
from edgefuse.stages.stage import TorchStage

STEPS = spec.Bounded(max=12)


class Mean(nn.Module):
    """A mean over all steps there are, or over the valid ones alone."""

    def __init__(self, masked: bool) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 4)
        self.masked = masked

    def forward(self, x: Tensor, length: Tensor) -> Tensor:
        y: Tensor = self.layer(x).relu()
        if not self.masked:
            return torch.mean(y, 1)
        valid = torch.arange(x.shape[1]).unsqueeze(0) < length.unsqueeze(1)
        return torch.sum(y * valid.unsqueeze(2), 1) / length.unsqueeze(1)


class Steps(nn.Module):
    """Keeps the steps; what it gives for zeros is not zero."""

    def __init__(self, masked: bool) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 4)
        self.masked = masked

    def forward(self, x: Tensor, length: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        valid = torch.arange(x.shape[1]).unsqueeze(0) < length.unsqueeze(1)
        return y * valid.unsqueeze(2) if self.masked else y


class Add(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 2)

    def forward(self, features: dict[str, Tensor], present: Tensor) -> Tensor:
        y: Tensor = self.head(features["sequence"].sum(1))
        return y


class Last(nn.Module):
    def forward(self, features: dict[str, Tensor], present: Tensor) -> Tensor:
        return features["sequence"][:, :2]


def stages_of(encoder: nn.Module, fusion: nn.Module, length: bool = True) -> tuple[TorchStage, ...]:
    torch.manual_seed(0)
    sequence = spec.tensor("sequence", shape=(1, STEPS, 3), length=length)
    described = spec.ModelSpec(name="s", modalities=(sequence,), outputs=(spec.ClassOutput(labels=("a", "b")),))
    return split(FusionModel(described, {"sequence": encoder}, fusion))


def test_a_mean_over_padding_is_found_with_its_sizes() -> None:
    encoder, _ = stages_of(Mean(masked=False), Last())
    found = depends_on_padding(encoder)
    assert found is not None
    assert found.error > 0.01
    assert (
        str(found)
        == f"its output 'feature' is {100 * found.error:.3g} % off where {found.steps} steps are padded to 12"
    )


def test_a_masked_mean_does_not_depend_on_padding() -> None:
    encoder, fusion = stages_of(Mean(masked=True), Last())
    assert depends_on_padding(encoder) is None
    assert depends_on_padding(fusion) is None  # of fixed sizes


@pytest.mark.parametrize("masked", [True, False])
def test_what_a_stage_gives_behind_the_true_size_reaches_the_next(masked: bool) -> None:
    stages = stages_of(Steps(masked), Add())
    assert all(depends_on_padding(stage) is None for stage in stages)  # each by itself, with zeros behind the true size
    assert list(dependences(stages)) == ([] if masked else ["fusion"])
