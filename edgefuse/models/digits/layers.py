"""Blocks that reference models are made of, in forms that lower to ONNX and LiteRT at a fixed shape.

Attention is spelled out (one fused qkv matrix product, softmax, product), convolutions carry a batch norm that
folds into them, causal convolutions pad on the left only so that they can run on chunks of a stream.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

# Below any score: trained scores differ by more than 100, so a mask of -100 lets the future through. exp(-1e4) is zero.
MASKED = -1e4


class ConvNormAct(nn.Sequential):
    """Convolve an image [B, C, H, W], normalise, and clip to 0..6 if `act`."""

    def __init__(
        self, channels_in: int, channels_out: int, kernel: int, stride: int = 1, groups: int = 1, act: bool = True
    ) -> None:
        conv = nn.Conv2d(channels_in, channels_out, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
        layers: list[nn.Module] = [conv, nn.BatchNorm2d(channels_out)]
        super().__init__(*layers, *([nn.ReLU6()] if act else []))


class InvertedResidual(nn.Module):
    """Widen, filter each channel, narrow; add the input where shapes agree (MobileNetV2, arXiv:1801.04381)."""

    def __init__(self, channels_in: int, channels_out: int, expansion: int, stride: int) -> None:
        super().__init__()
        hidden = channels_in * expansion
        self.body = nn.Sequential(
            ConvNormAct(channels_in, hidden, 1),
            ConvNormAct(hidden, hidden, 3, stride, groups=hidden),
            ConvNormAct(hidden, channels_out, 1, act=False),
        )
        self.residual = stride == 1 and channels_in == channels_out

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, channels_in, H, W] to [B, channels_out, H / stride, W / stride]."""
        y: Tensor = self.body(x)
        return x + y if self.residual else y


class CausalConv(nn.Module):
    """Convolve over time with padding on the left only, normalise, clip at zero."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int) -> None:
        super().__init__()
        self.pad = nn.ConstantPad1d((kernel - 1, 0), 0.0)
        self.conv = nn.Conv1d(channels_in, channels_out, kernel, bias=False)
        self.norm = nn.BatchNorm1d(channels_out)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, channels_in, T] to [B, channels_out, T]."""
        y: Tensor = self.act(self.norm(self.conv(self.pad(x))))
        return y

    @property
    def past(self) -> tuple[int, int]:
        """The shape of what a step remembers of one item: the last inputs, [channels_in, kernel - 1]."""
        return self.conv.in_channels, self.conv.kernel_size[0] - 1

    def step(self, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """Map the next [B, channels_in, T] of a stream, and return the next `past`."""
        heard = torch.cat([past, x], dim=2)
        return self.act(self.norm(self.conv(heard))), heard[:, :, x.shape[2] :]


class Attention(nn.Module):
    """Multi-head self-attention with one fused qkv projection and an additive mask.

    Pruning knows the attributes: `qkv` gives [3, heads, head_width], and after pruning heads * head_width need not be
    the width of the tokens.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.head_width = width // heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Attend over tokens.

        Args:
            x: float32 [B, T, width].
            mask: float32, broadcastable to [B, heads, T, T]: 0 where a token may look, `MASKED` elsewhere.
        """
        qkv = self._projected(x)
        return self._attended(qkv[0], qkv[1], qkv[2], mask)

    def past(self, steps: int) -> tuple[int, int, int]:
        """Return the shape of the keys that a step remembers of one item, and of the values."""
        return self.heads, steps, self.head_width

    def step(self, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Attend over the next tokens of a stream and those before them; return the next `keys` and `values`, too.

        Args:
            x: float32 [B, T, width].
            keys: of the last P tokens, float32 [B, heads, P, head_width].
            values: of the same.
            mask: as of `forward`, [B, heads, T, P + T].
        """
        qkv, steps = self._projected(x), x.shape[1]
        keys, values = torch.cat([keys, qkv[1]], dim=2), torch.cat([values, qkv[2]], dim=2)
        return self._attended(qkv[0], keys, values, mask), keys[:, :, steps:], values[:, :, steps:]

    def _projected(self, x: Tensor) -> Tensor:
        """Return queries, keys and values, [3, B, heads, T, head_width]."""
        batch, steps, _ = x.shape
        qkv: Tensor = self.qkv(x).reshape(batch, steps, 3, self.heads, self.head_width).permute(2, 0, 3, 1, 4)
        return qkv

    def _attended(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        batch, _, steps, _ = queries.shape
        scores = torch.matmul(queries * (1 / math.sqrt(self.head_width)), keys.transpose(-2, -1))
        weights = torch.softmax(scores + mask, dim=-1)
        mixed = torch.matmul(weights, values).permute(0, 2, 1, 3).reshape(batch, steps, self.heads * self.head_width)
        y: Tensor = self.out(mixed)
        return y


class TransformerBlock(nn.Module):
    """Attention and a two-layer network, each behind a layer norm and around a residual."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Map [B, T, width] to the same shape; for `mask` see `Attention`."""
        x = x + self.dropout(self.attention(self.norm1(x), mask))
        y: Tensor = x + self.dropout(self.feed_forward(self.norm2(x)))
        return y

    def step(self, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map the next [B, T, width] of a stream; see `Attention.step`."""
        mixed, keys, values = self.attention.step(self.norm1(x), keys, values, mask)
        x = x + mixed
        return x + self.feed_forward(self.norm2(x)), keys, values


class TokenFusion(nn.Module):
    """Fuse one token per modality with a class token by attention.

    Absent tokens are selected away and masked, so what comes out cannot depend on their features.

    Args:
        names: of the modalities, in the order of `present`.
        width_in: of their features.
        width: of the tokens.
        hidden: of the block's two-layer network.
    """

    def __init__(self, names: Sequence[str], width_in: int, width: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.names = tuple(names)
        self.projections = nn.ModuleDict({name: nn.Linear(width_in, width) for name in self.names})
        self.kinds = nn.Parameter(torch.randn(1, len(self.names), width) * 0.02)
        self.cls = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.block = TransformerBlock(width, 4, hidden, dropout)
        self.norm = nn.LayerNorm(width)

    def fused(self, features: Mapping[str, Tensor], present: Tensor) -> Tensor:
        """Return the class token, float32 [B, width].

        Args:
            features: per modality float32 [B, width_in].
            present: float32 [B, modalities] of ones and zeros.
        """
        projected = [self.projections[name](features[name]) for name in self.names]
        tokens = torch.stack(projected, dim=1) + self.kinds
        tokens = torch.where((present > 0.5).unsqueeze(2), tokens, torch.zeros_like(tokens))
        x = torch.cat([self.cls + torch.zeros_like(tokens[:, :1]), tokens], dim=1)
        absent = torch.cat([torch.zeros_like(present[:, :1]), 1.0 - present], dim=1) * MASKED
        x = self.block(x, absent.unsqueeze(1).unsqueeze(1))
        y: Tensor = self.norm(x[:, 0])
        return y


class ImageFrontend(nn.Module):
    """Turn camera pixels, uint8 [B, H, W, C], into normalised float32 [B, C, H, W]."""

    def forward(self, pixels: Tensor) -> Tensor:
        """Scale grey levels 0..255 to -1..1."""
        return pixels.permute(0, 3, 1, 2).to(torch.float32) * (2.0 / 255.0) - 1.0


class LogMelFrontend(nn.Module):
    """Turn PCM, float32 [B, samples], into normalised log-mel energies, float32 [B, frames, mels].

    The windowed DFT is one strided convolution with fixed weights. Mel scale: 2595 log10(1 + f / 700)
    (O'Shaughnessy 1987), triangular filters.

    On a stream, it remembers the samples that the last window has in common with the next one (`models/streaming.py`).
    """

    leading = "tail"

    def __init__(
        self,
        sample_rate_hz: int = 16_000,
        window: int = 400,
        hop: int = 320,
        mels: int = 40,
        mean: float = 0.0,
        deviation: float = 1.0,
        floor: float = 1e-3,
    ) -> None:
        super().__init__()
        self.hop = hop
        self.bins = window // 2 + 1
        self.floor = floor
        self.mean = mean
        self.scale = 1.0 / deviation
        self.register_buffer("basis", _windowed_dft(window), persistent=False)
        self.register_buffer("filters", _mel_filters(sample_rate_hz, window, mels), persistent=False)
        self.basis: Tensor
        self.filters: Tensor

    def forward(self, samples: Tensor) -> Tensor:
        """Return frames of log-mel energies; the last, incomplete frame is left out."""
        parts = nn.functional.conv1d(samples.unsqueeze(1), self.basis, stride=self.hop)
        real, imaginary = parts[:, : self.bins], parts[:, self.bins :]
        power = real * real + imaginary * imaginary
        mel = torch.matmul(power.transpose(1, 2), self.filters)
        return (torch.log(torch.clamp(mel, min=self.floor)) - self.mean) * self.scale

    @property
    def states(self) -> dict[str, tuple[int, ...]]:
        """What a step remembers: the samples that the next window begins with."""
        return {"tail": (self.basis.shape[2] - self.hop,)}

    def step(self, chunk: Tensor, tail: Tensor) -> tuple[Tensor, Tensor]:
        """Return as many frames as there are hops in a chunk, [B, hops * hop], and the next `tail`."""
        heard = torch.cat([tail, chunk], dim=1)
        return self(heard), heard[:, chunk.shape[1] :]


def _windowed_dft(window: int) -> Tensor:
    """Return cosine and sine rows under a periodic Hann window, float32 [2 * (window // 2 + 1), 1, window]."""
    time = torch.arange(window, dtype=torch.float64)
    hann = 0.5 - 0.5 * torch.cos(2 * math.pi * time / window)
    phase = 2 * math.pi * torch.outer(torch.arange(window // 2 + 1, dtype=torch.float64), time) / window
    return (torch.cat([torch.cos(phase), torch.sin(phase)]) * hann).to(torch.float32).unsqueeze(1)


def _mel_filters(sample_rate_hz: int, window: int, mels: int) -> Tensor:
    """Return triangular filters from 20 Hz to half the sample rate, float32 [window // 2 + 1, mels]."""

    def mel(hertz: float) -> float:
        return 2595 * math.log10(1 + hertz / 700)

    edges = torch.linspace(mel(20.0), mel(sample_rate_hz / 2), mels + 2, dtype=torch.float64)
    hertz = 700 * (10 ** (edges / 2595) - 1)
    bins = torch.arange(window // 2 + 1, dtype=torch.float64) * sample_rate_hz / window
    rising = (bins[:, None] - hertz[None, :-2]) / (hertz[1:-1] - hertz[:-2])
    falling = (hertz[None, 2:] - bins[:, None]) / (hertz[2:] - hertz[1:-1])
    return torch.clamp(torch.minimum(rising, falling), min=0.0).to(torch.float32)
