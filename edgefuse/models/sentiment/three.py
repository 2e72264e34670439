"""The model of three modalities as courses on multimodal systems describe it, with seeded weights and made-up data.

- image: three blocks of convolution and pooling over 224 × 224 × 3;
- audio: an LSTM and a bidirectional LSTM over log-mel frames;
- text: an embedding of 50,000 × 128 over at most 500 tokens;
- fusion: additive attention over the modalities (arXiv:1409.0473), then a dense head.

It is there to be compiled and timed. Nothing is trained and no input is real: its accuracy says nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from edgefuse.bundle import spec
from edgefuse.datasets.sample import MadeSamples, RawInput, Sample, Splits
from edgefuse.models.digits.layers import MASKED, ImageFrontend, LogMelFrontend
from edgefuse.models.fusion import FusionModel, masked

LABELS = ("negative", "neutral", "positive")
MODALITIES = ("image", "audio", "text")
PIXELS = 224
SAMPLE_RATE_HZ = 16_000
SAMPLES = 2 * SAMPLE_RATE_HZ
WORDS, TOKENS = 50_000, 500
WIDTH = 128
_MELS = 40
_CHANNELS = (3, 32, 64, 128)
_SEED = 7
_COUNTS = {"calibration": 48, "validation": 96, "test": 96}


class ImageEncoder(nn.Module):
    """Encode what the frontend gives, float32 [B, 3, 224, 224], as a feature [B, 128]."""

    def __init__(self) -> None:
        super().__init__()
        self.frontend = ImageFrontend()
        blocks: list[nn.Module] = []
        for inner, outer in pairwise(_CHANNELS):
            blocks += [nn.Conv2d(inner, outer, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(_CHANNELS[-1], WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Encode what the frontend gives."""
        y: Tensor = self.head(self.blocks(x).mean(dim=(2, 3)))
        return y


class AudioEncoder(nn.Module):
    """Encode log-mel frames, float32 [B, frames, 40], as a feature [B, 128]."""

    def __init__(self) -> None:
        super().__init__()
        self.frontend = LogMelFrontend(mels=_MELS)
        self.first = nn.LSTM(_MELS, WIDTH, batch_first=True)
        self.second = nn.LSTM(WIDTH, WIDTH // 2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(WIDTH, WIDTH)

    def forward(self, frames: Tensor) -> Tensor:
        """Encode what the frontend gives."""
        states = self.second(self.first(frames)[0])[0]
        y: Tensor = self.head(states.mean(dim=1))
        return y


class TextEncoder(nn.Module):
    """Encode word ids, int32 [B, 500] of which `length` [B] count, as a feature [B, 128]."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, WIDTH)
        self.head = nn.Linear(WIDTH, WIDTH)
        self.register_buffer("steps", torch.arange(TOKENS, dtype=torch.int32).unsqueeze(0), persistent=False)
        self.steps: Tensor

    def forward(self, ids: Tensor, length: Tensor) -> Tensor:
        """Encode the first `length` words; what follows them does not matter."""
        weight = (self.steps < length.unsqueeze(1)).to(torch.float32)
        total = (self.embedding(ids) * weight.unsqueeze(2)).sum(dim=1)
        y: Tensor = self.head(total / weight.sum(dim=1, keepdim=True).clamp(min=1.0))
        return y


class AttentionFusion(nn.Module):
    """Weigh the modalities by attention, add them up and decide; return logits [B, 3]."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 1))
        self.head = nn.Sequential(nn.Linear(WIDTH, 64), nn.ReLU(), nn.Linear(64, len(LABELS)))

    def forward(self, features: Mapping[str, Tensor], present: Tensor) -> Tensor:
        """Fuse.

        Args:
            features: per modality float32 [B, 128].
            present: float32 [B, 3] of ones and zeros, in the order image, audio, text.
        """
        there = [masked(features[name], present[:, column]) for column, name in enumerate(MODALITIES)]
        stacked = torch.stack(there, dim=1)
        scores = self.attention(stacked) + (1.0 - present).unsqueeze(2) * MASKED
        y: Tensor = self.head((torch.softmax(scores, dim=1) * stacked).sum(dim=1))
        return y


def build() -> FusionModel:
    """Build the model in evaluation mode; its weights are a seed's."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(_SEED)
        encoders = {"image": ImageEncoder(), "audio": AudioEncoder(), "text": TextEncoder()}
        fusion = AttentionFusion()
    described = spec.ModelSpec(
        name="sentiment_three",
        modalities=(
            spec.image("image", height=PIXELS, width=PIXELS, optional=True),
            spec.audio("audio", sample_rate_hz=SAMPLE_RATE_HZ, samples=SAMPLES, optional=True),
            spec.tensor("text", shape=(1, TOKENS), dtype="int32", length=True, optional=True),
        ),
        outputs=(spec.ClassOutput(labels=LABELS),),
    )
    return FusionModel(described, encoders, fusion).eval()


class MadeUp(MadeSamples):
    """Pictures of blots, tones in noise and words drawn at random; the label is drawn, too."""

    def __init__(self, count: int, seed: int) -> None:
        self._count = count
        self._seed = seed

    def __len__(self) -> int:
        """Return the number of samples."""
        return self._count

    def _sample(self, index: int) -> Sample:
        rng = np.random.default_rng([_SEED, self._seed, index])
        coarse = rng.integers(0, 256, (7, 7, 3))
        blots = np.kron(coarse, np.ones((PIXELS // 7, PIXELS // 7, 1), np.int64))
        image = blots + rng.integers(-8, 9, blots.shape)
        time = np.arange(SAMPLES) / SAMPLE_RATE_HZ
        tone = np.sin(2 * np.pi * rng.uniform(100, 2000) * time) * rng.uniform(0.05, 0.5)
        audio = tone + 0.02 * rng.standard_normal(SAMPLES)
        inputs: dict[str, RawInput] = {
            "image": np.clip(image, 0, 255).astype(np.uint8),
            "audio": audio.astype(np.float32),
            "text": rng.integers(0, WORDS, (1, int(rng.integers(5, TOKENS + 1))), dtype=np.int32),
        }
        return Sample(inputs, int(rng.integers(len(LABELS))))


def load() -> Splits:
    """Return made-up data."""
    parts = {name: MadeUp(count, seed) for seed, (name, count) in enumerate(_COUNTS.items())}
    return Splits(**parts, digest=f"made up {_SEED} {sorted(_COUNTS.items())}")
