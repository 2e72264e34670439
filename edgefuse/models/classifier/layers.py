"""Three encoders as people write them: convolutions for pictures, a small BERT, convolutions on the waveform."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

MASKED = -1e4


class Pictures(nn.Sequential):
    """Encode grey levels -1 to 1, float32 [B, 1, 64, 64], as a feature [B, width]: each block halves the picture."""

    def __init__(self, width: int, channels: tuple[int, ...] = (32, 64, 128)) -> None:
        blocks: list[nn.Module] = [_convolution(1, channels[0], stride=2)]
        for before, after in pairwise(channels):
            blocks += [_convolution(before, after, stride=2), _convolution(after, after)]
        super().__init__(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels[-1], width), nn.ReLU())


def _convolution(before: int, after: int, stride: int = 1) -> nn.Module:
    convolution = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(after), nn.ReLU())


class Waveform(nn.Module):
    """Encode a second of sound, float32 [B, 1, 16000], as a feature [B, width], by convolutions on the waveform itself.

    The first sees 10 ms at a time and learns the filters that a spectrogram would have fixed. It begins with windowed
    cosines, evenly spaced in mel, and what it gives is rectified, averaged and compressed, without which a small model
    takes many more epochs (as in LEAF, Zeghidour et al., arXiv:2101.08596).
    """

    def __init__(self, width: int, channels: tuple[int, ...] = (64, 128, 192, 192)) -> None:
        super().__init__()
        self.filters = nn.Conv1d(1, channels[0], 160, 20, padding=70, bias=False)
        self.filters.weight.data.copy_(_cosines(channels[0], 160).unsqueeze(1))
        self.average = nn.AvgPool1d(8)
        self.norm = nn.BatchNorm1d(channels[0])
        blocks: list[nn.Module] = []
        for place, (before, after) in enumerate(pairwise(channels)):
            convolution = nn.Conv1d(before, after, 5, 2 if place == 1 else 1, padding=2, bias=False)
            blocks.append(nn.Sequential(convolution, nn.BatchNorm1d(after), nn.ReLU()))
        self.blocks = nn.Sequential(*blocks, nn.AdaptiveAvgPool1d(1), nn.Flatten())
        self.head = nn.Sequential(nn.Linear(channels[-1], width), nn.ReLU())

    def forward(self, samples: Tensor) -> Tensor:
        """Return a feature, float32 [B, width]."""
        loudness = self.average(torch.abs(self.filters(samples)))
        y: Tensor = self.head(self.blocks(self.norm(torch.log(loudness + 0.02))))
        return y


def _cosines(count: int, taps: int, sample_rate_hz: int = 16_000) -> Tensor:
    """Return cosines under a Hann window, float32 [count, taps], of frequencies even in mel from 100 Hz upwards."""
    low, high = (math.log10(1 + hertz / 700) for hertz in (100.0, 0.47 * sample_rate_hz))
    hertz = 700 * (10 ** torch.linspace(low, high, count) - 1)
    seconds = (torch.arange(taps) - (taps - 1) / 2) / sample_rate_hz
    waves = torch.cos(2 * math.pi * hertz[:, None] * seconds) * torch.hann_window(taps, periodic=False)
    scaled: Tensor = waves / waves.norm(dim=1, keepdim=True)
    return scaled


class Bert(nn.Module):
    """Encode tokens as what the first of them becomes (Devlin et al., arXiv:1810.04805), in small."""

    def __init__(self, vocabulary: int, max_length: int, width: int, layers: int = 2, heads: int = 6) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(max_length, width)
        self.norm = nn.LayerNorm(width)
        self.layers = nn.ModuleList(BertLayer(width, heads) for _ in range(layers))
        self.last_norm = nn.LayerNorm(width)
        self.pooler = nn.Linear(width, width)

    def forward(self, ids: Tensor, length: Tensor) -> Tensor:
        """Return a feature, float32 [B, width].

        Args:
            ids: int32 [B, max_length], the first token, that of the whole text, first.
            length: int32 [B], how many of them count.
        """
        steps = torch.arange(ids.shape[1], device=ids.device)
        x = self.norm(self.tokens(ids) + self.positions(steps))
        padding = (steps.unsqueeze(0) >= length.unsqueeze(1)).to(x.dtype) * MASKED
        for layer in self.layers:
            x = layer(x, padding[:, None, None, :])
        y: Tensor = torch.tanh(self.pooler(self.last_norm(x[:, 0])))
        return y


class BertLayer(nn.Module):
    """Self-attention and a two-layer network, each behind a layer norm and added to what goes in.

    BERT normalises after the sum; before it, a small model learns in a few epochs (Xiong et al., arXiv:2002.04745).
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.mix = nn.Linear(width, width)
        self.norm1 = nn.LayerNorm(width)
        self.widen = nn.Linear(width, 4 * width)
        self.narrow = nn.Linear(4 * width, width)
        self.norm2 = nn.LayerNorm(width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return [B, T, width]; the mask, broadcastable to [B, heads, T, T], is added to the scores."""
        batch, steps, width = x.shape
        parts = self.qkv(self.norm1(x)).view(batch, steps, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(parts[0], parts[1], parts[2], attn_mask=mask)
        x = x + self.mix(mixed.transpose(1, 2).reshape(batch, steps, width))
        y: Tensor = x + self.narrow(functional.gelu(self.widen(self.norm2(x))))
        return y
