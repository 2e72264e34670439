"""Google's speech embedding and its mel frontend, in the form and with the weights of openWakeWord's ONNX files.

The embedding (Lin et al., "Training keyword spotters with limited and synthesized speech data", arXiv:2002.01322)
turns 76 frames of 10 ms into 96 numbers. Its convolutions are not padded in time and its strides in time multiply to
8, so applied to a longer window it gives exactly what sliding it along by 8 frames would.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from edgefuse.models.digits.layers import CausalConv

MELS = 32
WIDTH, HIDDEN = 96, 128
WINDOW, HOP = 512, 160
BINS = WINDOW // 2 + 1
# Channels out of each pair of convolutions (over frequency, then time), and the pooling after it.
_PAIRS: tuple[tuple[int, tuple[int, int] | None], ...] = (
    (24, (2, 2)),
    (48, None),
    (48, (1, 2)),
    (72, None),
    (72, (2, 2)),
    (96, None),
    (96, (1, 2)),
    (96, None),
    (96, (2, 2)),
)


class MelFrontend(nn.Module):
    """Turn PCM, float32 [B, samples] in [-1, 1], into mel energies, float32 [B, frames, 32].

    Energies are in tens of dB above that of 16-bit samples, plus two; what is more than 80 dB below the loudest of the
    window is raised to that.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("basis", torch.zeros(2 * BINS, 1, WINDOW), persistent=False)
        self.register_buffer("filters", torch.zeros(BINS, MELS), persistent=False)
        self.basis: Tensor
        self.filters: Tensor

    def load(self, cosines: Tensor, sines: Tensor, filters: Tensor) -> None:
        """Take the windowed DFT, two times [257, 1, 512], and the mel filters, [257, 32].

        Args:
            cosines: of the windowed DFT, float32 [257, 1, 512].
            sines: the same.
            filters: of the mel scale, float32 [257, 32].
        """
        self.basis.copy_(torch.cat([cosines, sines]) * 32768.0)  # a power of two: no rounding
        self.filters.copy_(filters)

    def forward(self, samples: Tensor) -> Tensor:
        """Return one row per hop of 10 ms; the last, incomplete frame is left out."""
        parts = nn.functional.conv1d(samples.unsqueeze(1), self.basis, stride=HOP)
        real, imaginary = parts[:, :BINS], parts[:, BINS:]
        power = real * real + imaginary * imaginary
        mel = torch.matmul(power.transpose(1, 2), self.filters)
        level = torch.log(torch.clamp(mel, min=1e-10)) * (1.0 / math.log(10.0))
        return torch.maximum(level, level.amax(dim=(1, 2), keepdim=True) - 8.0) + 2.0


class Limited(nn.Module):
    """A leaky rectifier that stops at -0.4."""

    def forward(self, x: Tensor) -> Tensor:
        """Return an array of the same shape."""
        return torch.clamp(nn.functional.leaky_relu(x, 0.2), min=-0.4)


class SpeechEmbedding(nn.Sequential):
    """Map mel energies, float32 [B, 1, frames, 32], to [B, 96, (frames - 76) / 8 + 1, 1]."""

    def __init__(self) -> None:
        layers: list[nn.Module] = [nn.Conv2d(1, 24, 3, padding=(0, 1)), Limited()]
        channels = 24
        for channels_out, pooling in _PAIRS:
            layers += [nn.Conv2d(channels, channels_out, (1, 3), padding=(0, 1)), Limited()]
            layers += [nn.Conv2d(channels_out, channels_out, (3, 1)), Limited()]
            layers += [nn.MaxPool2d(pooling)] if pooling else []
            channels = channels_out
        super().__init__(*layers, nn.Conv2d(channels, WIDTH, (3, 1), bias=False))


class AudioEncoder(nn.Module):
    """Encode what the frontend gives, float32 [B, frames, 32], as a feature [B, width].

    Nothing looks ahead, so that the encoder can run on the frames of a stream as they come.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.frontend = MelFrontend()
        self.backbone = SpeechEmbedding()
        self.convolutions = nn.Sequential(CausalConv(WIDTH, HIDDEN, 3), CausalConv(HIDDEN, HIDDEN, 3))
        self.head = nn.Linear(2 * HIDDEN, width)

    def embed(self, frames: Tensor) -> Tensor:
        """Return the output of the pretrained part for a window, [B, 96, steps]."""
        y: Tensor = self.backbone(frames.unsqueeze(1))
        return y.squeeze(3)

    def decide(self, embedding: Tensor) -> Tensor:
        """Return the feature for what `embed` gave."""
        steps = self.convolutions(embedding)
        y: Tensor = self.head(torch.cat([steps.mean(dim=2), steps.amax(dim=2)], dim=1))
        return y

    def forward(self, frames: Tensor) -> Tensor:
        """Encode what the frontend gives."""
        return self.decide(self.embed(frames))
