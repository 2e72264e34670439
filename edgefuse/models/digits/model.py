"""The reference model `digits`: which digit is shown, said and typed?

A MobileNetV2-like encoder for pictures (arXiv:1801.04381), causal convolutions and attention for sound, a small
transformer for text, and attention fusion over one token per modality. The architecture is frozen: the committed
weights belong to it, and every figure is measured against it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from edgefuse.bundle import spec
from edgefuse.datasets.digits.text import MAX_LENGTH, tokenizer, vocabulary_size
from edgefuse.errors import DataError
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
from edgefuse.models.fusion import FusionModel

WIDTH = 192
CLASSES = 10
MODALITIES = ("image", "audio", "text")
FRAMES, MELS = 49, 40
LEFT_CONTEXT = 49
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

    Convolutions and attention look at the past only, so the encoder can run on the frames of a stream as they come.
    """

    def __init__(self) -> None:
        super().__init__()
        self.frontend = LogMelFrontend(mels=MELS, mean=MEL_MEAN, deviation=MEL_DEVIATION)
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
        y: Tensor = self.head(self.norm(self.states(frames)).mean(dim=1))
        return y

    def states(self, frames: Tensor) -> Tensor:
        """Return a state per frame, [B, 49, 192], that depends on this frame and the ones before it."""
        x: Tensor = self.convolutions(frames.transpose(1, 2)).transpose(1, 2)
        for block in self.blocks:
            x = block(x, self.mask)
        return x


class TextEncoder(nn.Module):
    """Encode character ids, int32 [B, 24] of which `length` [B] count, as a feature [B, 192]."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size(), width)
        self.positions = nn.Parameter(torch.randn(1, MAX_LENGTH, width) * 0.02)
        self.blocks = nn.ModuleList(TransformerBlock(width, 4, 512) for _ in range(2))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, WIDTH)
        self.register_buffer("steps", torch.arange(MAX_LENGTH, dtype=torch.int32).unsqueeze(0), persistent=False)
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


def model_spec() -> spec.ModelSpec:
    """Return what the model takes and gives: three optional modalities, ten classes."""
    return spec.ModelSpec(
        name="digits",
        modalities=(
            spec.image("image", height=64, width=64, channels=1, optional=True),
            spec.audio("audio", sample_rate_hz=16_000, samples=16_000, optional=True),
            spec.text("text", tokenizer="tokenizer.json", max_length=MAX_LENGTH, optional=True),
        ),
        outputs=(spec.ClassOutput(labels=tuple(str(digit) for digit in range(CLASSES))),),
    )


def build(weights: str | Path | None = None) -> FusionModel:
    """Build the model in evaluation mode, with the weights of a safetensors file if one is named.

    Raises:
        DataError: the file is missing or holds the weights of another model.
    """
    encoders = {"image": ImageEncoder(), "audio": AudioEncoder(), "text": TextEncoder()}
    assets = {"tokenizer.json": tokenizer().to_str().encode()}
    model = FusionModel(model_spec(), encoders, AttentionFusion(), assets=assets)
    if weights is not None:
        path = Path(weights)
        if not path.is_file():
            raise DataError("the weight file of 'digits' is missing", got=f"no file '{path}'")
        try:
            model.load_state_dict(load_file(path))
        except RuntimeError as error:
            raise DataError(f"'{path.name}' does not hold the weights of 'digits'", got=str(error)) from error
    return model.eval()
