"""Attention over the tokens of all modalities, and a class token for each output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from edgefuse.models.dialogue.decoder import MemoryFusion
from edgefuse.models.digits.layers import TransformerBlock


class SlotFusion(nn.Module):
    """Fuse all tokens by attention, and let a class token for each output read what it needs from them.

    Args:
        names: of the modalities, in the order of `present`.
        classes: of each output, in the order of the spec.
        width: of the tokens.
        dropout: in training.
    """

    def __init__(self, names: Sequence[str], classes: Sequence[int], width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.memory = MemoryFusion(names, width, dropout)
        self.questions = nn.Parameter(torch.randn(1, len(classes), width) * 0.02)
        self.block = TransformerBlock(width, 4, 2 * width, dropout)
        self.norm = nn.LayerNorm(width)
        self.heads = nn.ModuleList(nn.Linear(width, count) for count in classes)

    def forward(self, features: Mapping[str, Tensor], present: Tensor) -> tuple[Tensor, ...]:
        """Return the logits of each output, float32 [B, classes].

        Args:
            features: per modality float32 [B, tokens, width].
            present: float32 [B, modalities] of ones and zeros.
        """
        memory, mask = self.memory(features, present)
        count = len(self.heads)
        asked = self.questions + torch.zeros_like(memory[:, :count])
        read = torch.cat([torch.zeros_like(mask[:, :, :, :count]), mask], dim=3)
        answers = self.norm(self.block(torch.cat([asked, memory], dim=1), read)[:, :count])
        return tuple(head(answers[:, place]) for place, head in enumerate(self.heads))
