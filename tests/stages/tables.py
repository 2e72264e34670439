"""A model of one sequence of rows."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgefuse.bundle import spec
from edgefuse.models.fusion import FusionModel


class Rows(nn.Module):
    def forward(self, x: Tensor, length: Tensor) -> Tensor:
        valid = torch.arange(x.shape[1]).unsqueeze(0) < length.unsqueeze(1)
        return (x * valid.unsqueeze(2)).sum(1) / length.unsqueeze(1)


class Head(nn.Module):
    def forward(self, features: dict[str, Tensor], present: Tensor) -> Tensor:
        return features["rows"] * present


def model(encoder: nn.Module, rows: spec.Modality | None = None) -> FusionModel:
    rows = rows or spec.tensor("rows", shape=(1, spec.Bounded(max=12), 3), length=True)
    described = spec.ModelSpec(name="t", modalities=(rows,), outputs=(spec.ValuesOutput(labels=("a", "b", "c")),))
    return FusionModel(described, {"rows": encoder}, Head())
