"""MiniLM with a head, taken apart before its last layer, which is trained, too."""

from __future__ import annotations

import torch
from torch import Tensor

from edgefuse.models.assistant.text import TextEncoder as Whole
from edgefuse.models.digits.layers import MASKED


class TextEncoder(Whole):
    """Encode token ids, int32 [B, max_length] of which `length` [B] count, as a feature [B, width].

    `top(base(ids, length), length)` is what `forward` gives: the base, all below the last layer, runs once over the
    data before the rest is trained.
    """

    def base(self, ids: Tensor, length: Tensor) -> Tensor:
        """Return the states that enter the last layer, float32 [B, steps, 384], for no more steps than `ids` has."""
        _, mask = self._valid(length, ids.shape[1])
        x: Tensor = self.backbone.norm(self.backbone.embedding(ids) + self.backbone.positions[:, : ids.shape[1]])
        for layer in list(self.backbone.layers)[:-1]:
            x = layer(x, mask)
        return x

    def top(self, states: Tensor, length: Tensor) -> Tensor:
        """Return the feature for what `base` gave."""
        weight, mask = self._valid(length, states.shape[1])
        x = self.backbone.layers[-1](states, mask)
        mean = (x * weight.unsqueeze(2)).sum(dim=1) / weight.sum(dim=1, keepdim=True).clamp(min=1.0)
        y: Tensor = self.head(mean)
        return y

    def _valid(self, length: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        weight = (self.backbone.steps[:, :steps] < length.unsqueeze(1)).to(torch.float32)
        return weight, ((1.0 - weight) * MASKED).unsqueeze(1).unsqueeze(1)
