"""The encoders and the fusion of `digits`, in torch alone: a machine that has no more runs them (benchmarks/gpu.py)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from edgefuse.models.digits.layers import (
    MASKED,
    CausalConv,
    ConvNormAct,
    ImageFrontend,
    InvertedResidual,
    LogMelFrontend,
    TokenFusion,
    TransformerBlock,
)

WIDTH = 192
CLASSES = 10
MODALITIES = ("image", "audio", "text")
FRAMES, MELS = 49, 40
LEFT_CONTEXT = 49
CHUNK = 7
"""Frames of one step on a stream: a seventh of a window."""
HOP = 320
# Of the training split's log-mel energies.
MEL_MEAN, MEL_DEVIATION = 1.4, 1.4

# (channels out, expansion, stride)
_RESIDUALS = (
    (32, 3, 1),
    (48, 4, 2),
    (48, 4, 1),
    (96, 4, 2),
    (96, 4, 1),
    (96, 4, 1),
    (128, 4, 2),
    (128, 4, 1),
)


class ImageEncoder(nn.Module):
    """Encode a normalised frame, float32 [B, 1, 64, 64], as a feature [B, 192]."""

    def __init__(self) -> None:
        super().__init__()
        self.frontend = ImageFrontend()
        layers: list[nn.Module] = [ConvNormAct(1, 32, 3, 2)]
        channels = 32
        for channels_out, expansion, stride in _RESIDUALS:
            layers.append(InvertedResidual(channels, channels_out, expansion, stride))
            channels = channels_out
        self.body = nn.Sequential(*layers, ConvNormAct(channels, 256, 1))
        self.head = nn.Linear(256, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Encode what the frontend gives."""
        y: Tensor = self.head(self.body(x).mean(dim=(2, 3)))
        return y


class AudioEncoder(nn.Module):
    """Encode log-mel frames, float32 [B, 49, 40], as a feature [B, 192].

    Convolutions and attention look at the past only, so the encoder can run on the frames of a stream as they come
    (`models/streaming.py`): it remembers the last inputs of each convolution, the keys and values of the last frames,
    which of these there are, and of the mean the sums of the last chunks.
    """

    chunk = CHUNK * HOP
    leading = ""

    def __init__(self) -> None:
        super().__init__()
        self.frontend = LogMelFrontend(hop=HOP, mels=MELS, mean=MEL_MEAN, deviation=MEL_DEVIATION)
        self.convolutions = nn.Sequential(CausalConv(MELS, WIDTH, 5), CausalConv(WIDTH, WIDTH, 3))
        self.blocks = nn.ModuleList(TransformerBlock(WIDTH, 4, 512) for _ in range(2))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, WIDTH)
        step = torch.arange(FRAMES)
        behind = step[:, None] - step[None, :]
        mask = torch.where((behind >= 0) & (behind <= LEFT_CONTEXT), 0.0, MASKED)
        self.register_buffer("mask", mask, persistent=False)
        self.mask: Tensor

    def forward(self, frames: Tensor) -> Tensor:
        """Encode what the frontend gives."""
        y: Tensor = self.head(self.norm(self.encoded(frames)).mean(dim=1))
        return y

    def encoded(self, frames: Tensor) -> Tensor:
        """Return a state per frame, [B, 49, 192], that depends on this frame and the ones before it."""
        x: Tensor = self.convolutions(frames.transpose(1, 2)).transpose(1, 2)
        for block in self.blocks:
            x = block(x, self.mask)
        return x

    @property
    def states(self) -> dict[str, tuple[int, ...]]:
        """What a step remembers, as wide as the layers are after pruning."""
        shapes: dict[str, tuple[int, ...]] = {}
        convolutions, blocks = self._layers
        for number, convolution in enumerate(convolutions):
            shapes[f"past{number}"] = convolution.past
        for number, block in enumerate(blocks):
            shapes[f"keys{number}"] = shapes[f"values{number}"] = block.attention.past(LEFT_CONTEXT)
        return shapes | {"seen": (LEFT_CONTEXT,), "sums": (FRAMES // CHUNK, self.head.in_features)}

    def step(self, frames: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """Return the feature of the window that ends with these frames, [B, 7, 40], and the next states."""
        (convolutions, blocks), remembered = self._layers, dict(zip(self.states, states, strict=True))
        x = frames.transpose(1, 2)
        for number, convolution in enumerate(convolutions):
            x, remembered[f"past{number}"] = convolution.step(x, remembered[f"past{number}"])
        x = x.transpose(1, 2)
        seen = torch.cat([remembered["seen"], torch.ones_like(frames[:, :, 0])], dim=1)
        mask = self._band() + ((1.0 - seen) * MASKED).unsqueeze(1).unsqueeze(1)
        for number, block in enumerate(blocks):
            keys, values = f"keys{number}", f"values{number}"
            x, remembered[keys], remembered[values] = block.step(x, remembered[keys], remembered[values], mask)
        remembered["seen"] = seen[:, CHUNK:]
        last = self.norm(x).sum(dim=1, keepdim=True)
        remembered["sums"] = torch.cat([remembered["sums"][:, 1:], last], dim=1)
        return self.head(remembered["sums"].sum(dim=1) * (1.0 / FRAMES)), *remembered.values()

    @property
    def _layers(self) -> tuple[list[CausalConv], list[TransformerBlock]]:
        """Return what has something to remember: a block that pruning removed gives what it takes."""
        convolutions: list[CausalConv] = list(self.convolutions)  # type: ignore[arg-type] # so they were made
        return convolutions, [block for block in self.blocks if isinstance(block, TransformerBlock)]

    def _band(self) -> Tensor:
        """Return the mask of a step, [7, 49 + 7]: a frame looks at itself and at the 49 before it."""
        ahead = self.mask[:CHUNK, :CHUNK]
        between = ahead.new_zeros(CHUNK, LEFT_CONTEXT - CHUNK)
        return torch.cat([ahead.transpose(0, 1), between, ahead], dim=1)


class TextEncoder(nn.Module):
    """Encode character ids, int32 [B, max_length] of which `length` [B] count, as a feature [B, 192]."""

    def __init__(self, vocabulary: int, max_length: int, width: int = 128) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(torch.randn(1, max_length, width) * 0.02)
        self.blocks = nn.ModuleList(TransformerBlock(width, 4, 512) for _ in range(2))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, WIDTH)
        self.register_buffer("steps", torch.arange(max_length, dtype=torch.int32).unsqueeze(0), persistent=False)
        self.steps: Tensor

    def forward(self, ids: Tensor, length: Tensor) -> Tensor:
        """Encode the first `length` characters; what follows them does not matter."""
        valid = self.steps < length.unsqueeze(1)
        weight = valid.to(torch.float32)
        mask = ((1.0 - weight) * MASKED).unsqueeze(1).unsqueeze(1)
        embedded = self.embedding(ids) + self.positions
        x = torch.where(valid.unsqueeze(2), embedded, torch.zeros_like(embedded))
        for block in self.blocks:
            x = block(x, mask)
        total = (self.norm(x) * weight.unsqueeze(2)).sum(dim=1)
        y: Tensor = self.head(total / weight.sum(dim=1, keepdim=True).clamp(min=1.0))
        return y


class AttentionFusion(TokenFusion):
    """Fuse one token per modality with a class token by attention; return logits [B, 10]."""

    def __init__(self) -> None:
        super().__init__(MODALITIES, WIDTH, WIDTH, 512)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, features: Mapping[str, Tensor], present: Tensor) -> Tensor:
        """Fuse.

        Args:
            features: per modality float32 [B, 192].
            present: float32 [B, 3] of ones and zeros, in the order image, audio, text.
        """
        logits: Tensor = self.head(self.fused(features, present))
        return logits
