"""The fusion of `assistant`, in torch alone: a machine that has no more runs it (benchmarks/gpu.py)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from edgefuse.models.digits.layers import TokenFusion

MODALITIES = ("image", "audio", "text")
WIDTH = 256
FUSION_WIDTH = 128
EMBEDDING = 128


class AttentionFusion(TokenFusion):
    """Fuse one token per modality with a class token by attention.

    It returns logits [B, categories] and an embedding [B, 128] of length one.
    """

    def __init__(self, categories: int, dropout: float = 0.0) -> None:
        super().__init__(MODALITIES, WIDTH, FUSION_WIDTH, 2 * FUSION_WIDTH, dropout)
        self.category = nn.Linear(FUSION_WIDTH, categories)
        self.match = nn.Linear(FUSION_WIDTH, EMBEDDING)

    def forward(self, features: Mapping[str, Tensor], present: Tensor) -> tuple[Tensor, Tensor]:
        """Fuse.

        Args:
            features: per modality float32 [B, 256].
            present: float32 [B, 3] of ones and zeros, in the order image, audio, text.
        """
        fused = self.fused(features, present)
        point = self.match(fused)
        length = torch.sqrt((point * point).sum(dim=1, keepdim=True) + 1e-12)
        return self.category(fused), point / length
