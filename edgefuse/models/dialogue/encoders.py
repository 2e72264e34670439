"""Three encoders, each of which gives a few tokens, float32 [B, tokens, width]."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from edgefuse.models.digits.layers import ImageFrontend, LogMelFrontend, TransformerBlock

_CHANNELS = (1, 24, 48, 96)
_MELS = 40


class ImageEncoder(nn.Module):
    """Encode grey levels -1 to 1, float32 [B, 1, 64, 64], as one token: each block halves the picture."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.frontend = ImageFrontend()
        blocks: list[nn.Module] = []
        for before, after in pairwise(_CHANNELS):
            blocks += [nn.Conv2d(before, after, 3, 2, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
            blocks += [nn.Conv2d(after, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        self.blocks = nn.Sequential(*blocks, nn.AvgPool2d(8), nn.Flatten())
        self.head = nn.Linear(_CHANNELS[-1], width)

    def forward(self, x: Tensor) -> Tensor:
        """Return one token, [B, 1, width]."""
        y: Tensor = self.head(self.blocks(x)).unsqueeze(1)
        return y


class AudioEncoder(nn.Module):
    """Encode log-mel frames, float32 [B, 149, 40], as 38 tokens: two convolutions that halve time, and a GRU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.frontend = LogMelFrontend(mels=_MELS)
        blocks: list[nn.Module] = [nn.BatchNorm1d(_MELS)]
        for before in (_MELS, width):
            blocks += [nn.Conv1d(before, width, 5, 2, padding=2, bias=False), nn.BatchNorm1d(width), nn.ReLU()]
        self.blocks = nn.Sequential(*blocks)
        self.recurrent = nn.GRU(width, width, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return a token for every 80 ms, [B, 38, width]."""
        y: Tensor = self.recurrent(self.blocks(x.transpose(1, 2)).transpose(1, 2))[0]
        return y


class TextEncoder(nn.Module):
    """Encode characters, int32 [B, length], as a token for every four: convolutions and a block of attention."""

    def __init__(self, vocabulary: int, length: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        blocks: list[nn.Module] = []
        for _ in range(2):
            blocks += [nn.Conv1d(width, width, 5, 2, padding=2, bias=False), nn.BatchNorm1d(width), nn.ReLU()]
        self.blocks = nn.Sequential(*blocks)
        self.positions = nn.Parameter(torch.randn(1, length // 4, width) * 0.02)
        self.attention = TransformerBlock(width, 4, 2 * width)

    def forward(self, ids: Tensor, length: Tensor) -> Tensor:
        """Return the tokens of a text.

        Args:
            ids: int32 [B, length].
            length: int32 [B]: how many characters count; the others are as if they were not there.
        """
        steps = torch.arange(ids.shape[1], dtype=torch.int32, device=ids.device)
        valid = (steps.unsqueeze(0) < length.unsqueeze(1)).unsqueeze(2)
        embedded = self.embedding(ids)
        x = torch.where(valid, embedded, torch.zeros_like(embedded)).transpose(1, 2)
        x = self.blocks(x).transpose(1, 2) + self.positions
        y: Tensor = self.attention(x, torch.zeros(1, 1, 1, 1))
        return y
