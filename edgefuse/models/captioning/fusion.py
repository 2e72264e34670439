"""The fusion of `captioning`: a map of the picture that can be looked at, and a summary to begin with."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from edgefuse.models.captioning.encoders import CHANNELS, WIDTH
from edgefuse.models.digits.layers import ConvNormAct
from edgefuse.models.fusion import masked

MODALITIES = ("image", "prefix")
_SIDE = 5


class MapFusion(nn.Module):
    """Return cells of the picture, float32 [B, 25, 128], and a summary of picture and prefix, [B, 128]."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            ConvNormAct(CHANNELS, WIDTH, 3), ConvNormAct(WIDTH, WIDTH, 3, stride=2), ConvNormAct(WIDTH, WIDTH, 3)
        )
        self.places = nn.Parameter(torch.randn(1, _SIDE * _SIDE, WIDTH) * 0.1)
        self.summary = nn.Linear(2 * WIDTH + len(MODALITIES), WIDTH)

    def forward(self, features: Mapping[str, Tensor], present: Tensor) -> tuple[Tensor, Tensor]:
        """Fuse.

        Args:
            features: of the image float32 [B, 96, 10, 10], of the prefix float32 [B, 128].
            present: float32 [B, 2] of ones and zeros, in the order image, prefix.
        """
        image, prefix = (masked(features[name], present[:, column]) for column, name in enumerate(MODALITIES))
        cells = self.layers(image).flatten(2).transpose(1, 2) + self.places
        summary = torch.tanh(self.summary(torch.cat([cells.mean(dim=1), prefix, present], dim=1)))
        return cells, summary
