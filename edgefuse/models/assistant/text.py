"""MiniLM-L6 (arXiv:2002.10957), a BERT of six layers trained to embed sentences (arXiv:1908.10084)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgefuse.models.digits.layers import MASKED, Attention

VOCABULARY = 30_522
WIDTH, HEADS, HIDDEN, LAYERS = 384, 12, 1536, 6
_EPSILON = 1e-12


class BertLayer(nn.Module):
    """Attention and a two-layer network, each with a residual and a layer norm behind it (arXiv:1810.04805)."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = Attention(WIDTH, HEADS)
        self.norm1 = nn.LayerNorm(WIDTH, eps=_EPSILON)
        self.feed_forward = nn.Sequential(nn.Linear(WIDTH, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, WIDTH))
        self.norm2 = nn.LayerNorm(WIDTH, eps=_EPSILON)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Map [B, T, 384] to the same shape; for `mask` see `Attention`."""
        x = self.norm1(x + self.attention(x, mask))
        y: Tensor = self.norm2(x + self.feed_forward(x))
        return y


class MiniLM(nn.Module):
    """Embed token ids, int32 [B, max_length] of which `length` [B] count, as the mean of the tokens' states [B, 384].

    Positions beyond `max_length` are left out, and the one kind of segment is added to the positions.
    """

    def __init__(self, max_length: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.positions = nn.Parameter(torch.zeros(1, max_length, WIDTH))
        self.norm = nn.LayerNorm(WIDTH, eps=_EPSILON)
        self.layers = nn.ModuleList(BertLayer() for _ in range(LAYERS))
        self.register_buffer("steps", torch.arange(max_length, dtype=torch.int32).unsqueeze(0), persistent=False)
        self.steps: Tensor

    def forward(self, ids: Tensor, length: Tensor) -> Tensor:
        """Embed the first `length` tokens; what follows them does not matter."""
        weight = (self.steps < length.unsqueeze(1)).to(torch.float32)
        mask = ((1.0 - weight) * MASKED).unsqueeze(1).unsqueeze(1)
        x = self.norm(self.embedding(ids) + self.positions)
        for layer in self.layers:
            x = layer(x, mask)
        total = (x * weight.unsqueeze(2)).sum(dim=1)
        y: Tensor = total / weight.sum(dim=1, keepdim=True).clamp(min=1.0)
        return y


class TextEncoder(nn.Module):
    """Encode token ids, int32 [B, max_length] of which `length` [B] count, as a feature [B, width]."""

    def __init__(self, width: int, max_length: int) -> None:
        super().__init__()
        self.backbone = MiniLM(max_length)
        self.head = nn.Linear(WIDTH, width)

    def embed(self, ids: Tensor, length: Tensor) -> Tensor:
        """Return the output of the pretrained part for a text, [B, 384]."""
        y: Tensor = self.backbone(ids, length)
        return y

    def decide(self, embedding: Tensor) -> Tensor:
        """Return the feature for what `embed` gave."""
        y: Tensor = self.head(embedding)
        return y

    def forward(self, ids: Tensor, length: Tensor) -> Tensor:
        """Encode the first `length` tokens."""
        return self.decide(self.embed(ids, length))
