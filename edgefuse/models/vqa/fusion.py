"""The fusion of `vqa`: the question scales and shifts the channels of layers over the picture's map.

Feature-wise linear modulation (Perez et al., "FiLM: Visual Reasoning with a General Conditioning Layer",
arXiv:1709.07871). Layers of 3 × 3 see what is beside what.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from edgefuse.models.fusion import masked
from edgefuse.models.vqa.encoders import CHANNELS, WIDTH

MODALITIES = ("image", "question")
_SIDE = 6
_BLOCKS = 3
_HIDDEN = 128


class FilmBlock(nn.Module):
    """Mix channels, look around, scale and shift by the question; around it a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(CHANNELS, CHANNELS, 1)
        self.look = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(CHANNELS, affine=False)
        self.scale = nn.Linear(WIDTH, CHANNELS)
        self.shift = nn.Linear(WIDTH, CHANNELS)

    def forward(self, x: Tensor, question: Tensor) -> Tensor:
        """Map [B, 64, H, W] to the same shape; the question is [B, 64]."""
        mixed = torch.relu(self.mix(x))
        y = self.norm(self.look(mixed))
        scale, shift = (layer(question).unsqueeze(2).unsqueeze(3) for layer in (self.scale, self.shift))
        return mixed + torch.relu(y * (1.0 + scale) + shift)


class FilmFusion(nn.Module):
    """Return logits [B, answers]."""

    def __init__(self, answers: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.places = nn.Parameter(torch.randn(1, CHANNELS, _SIDE, _SIDE) * 0.1)
        self.blocks = nn.ModuleList(FilmBlock() for _ in range(_BLOCKS))
        self.head = nn.Sequential(
            nn.Linear(2 * CHANNELS + WIDTH + len(MODALITIES), _HIDDEN),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(_HIDDEN, answers),
        )

    def forward(self, features: Mapping[str, Tensor], present: Tensor) -> Tensor:
        """Fuse.

        Args:
            features: of the image float32 [B, 64, 6, 6], of the question float32 [B, 64].
            present: float32 [B, 2] of ones and zeros, in the order image, question.
        """
        image, question = (masked(features[name], present[:, column]) for column, name in enumerate(MODALITIES))
        x = image + self.places
        for block in self.blocks:
            x = block(x, question)
        pooled = torch.cat([x.mean(dim=(2, 3)), x.amax(dim=(2, 3)), question, present], dim=1)
        y: Tensor = self.head(pooled)
        return y
