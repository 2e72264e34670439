"""The encoders of `vqa`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgefuse.models.digits.layers import MASKED, ConvNormAct, ImageFrontend, TransformerBlock

CHANNELS = 64
WIDTH = 64
_LAYERS = ((24, 2), (48, 2), (64, 2), (64, 1), (64, 2), (CHANNELS, 1))  # channels out, and stride


class ImageEncoder(nn.Module):
    """Encode what the frontend gives, float32 [B, 3, 96, 96], as a map [B, 64, 6, 6]: where matters."""

    def __init__(self) -> None:
        super().__init__()
        self.frontend = ImageFrontend()
        channels, layers = 3, list[nn.Module]()
        for channels_out, stride in _LAYERS:
            layers.append(ConvNormAct(channels, channels_out, 3, stride))
            channels = channels_out
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Encode what the frontend gives."""
        y: Tensor = self.layers(x)
        return y


class QuestionEncoder(nn.Module):
    """Encode word ids, int32 [B, max_length] of which `length` [B] count, as a feature [B, 64].

    Args:
        words: of the vocabulary.
        max_length: tokens of a question, at the most.
    """

    def __init__(self, words: int, max_length: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, WIDTH)
        self.positions = nn.Parameter(torch.randn(1, max_length, WIDTH) * 0.02)
        self.block = TransformerBlock(WIDTH, 4, 2 * WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.register_buffer("steps", torch.arange(max_length, dtype=torch.int32).unsqueeze(0), persistent=False)
        self.steps: Tensor

    def forward(self, ids: Tensor, length: Tensor) -> Tensor:
        """Encode the first `length` words; what follows them does not matter."""
        weight = (self.steps < length.unsqueeze(1)).to(torch.float32)
        x = self.block(self.embedding(ids) + self.positions, ((1.0 - weight) * MASKED).unsqueeze(1).unsqueeze(1))
        mean = (x * weight.unsqueeze(2)).sum(dim=1) / weight.sum(dim=1, keepdim=True).clamp(min=1.0)
        y: Tensor = self.norm(mean)
        return y
