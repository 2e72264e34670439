"""Fusion by concatenation, in torch alone."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from edgefuse.models.fusion import masked

MODALITIES = ("audio", "text")
WIDTH = 256
HIDDEN = 128


class ConcatenationFusion(nn.Module):
    """Concatenate the features and who is present, and decide by a network of two layers; return logits [B, labels]."""

    def __init__(self, labels: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(len(MODALITIES) * (WIDTH + 1), HIDDEN), nn.ReLU(), nn.Dropout(dropout), nn.Linear(HIDDEN, labels)
        )

    def forward(self, features: Mapping[str, Tensor], present: Tensor) -> Tensor:
        """Fuse.

        Args:
            features: per modality float32 [B, 256].
            present: float32 [B, 2] of ones and zeros, in the order audio, text.
        """
        heard = [masked(features[name], present[:, column]) for column, name in enumerate(MODALITIES)]
        y: Tensor = self.layers(torch.cat([*heard, present], dim=1))
        return y
