"""The encoders of frames and words, and their fusion: the features of each step side by side."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from edgefuse.models.digits.layers import ConvNormAct

WIDTH_FRAME = 96
WIDTH_WORD = 32
WIDTH = WIDTH_FRAME + WIDTH_WORD


class Frontend(nn.Module):
    """Map frames, uint8 [B, frames, height, width, 1], to [-1, 1], float32 [B, frames, height, width]."""

    def forward(self, frames: Tensor) -> Tensor:
        """Scale the grey levels."""
        return frames.squeeze(4).to(torch.float32) / 127.5 - 1.0


class VideoEncoder(nn.Module):
    """Encode each of a clip's frames by itself, as float32 [B, frames, 96]: zeros behind the last one.

    Args:
        size: height and width of a frame, a multiple of 8.
        frames: of the longest clip.
    """

    def __init__(self, size: int, frames: int) -> None:
        super().__init__()
        self.frontend = Frontend()
        self.size, self.frames = size, frames
        self.blocks = nn.Sequential(
            ConvNormAct(1, 16, 3, stride=2),
            ConvNormAct(16, 32, 3, stride=2),
            ConvNormAct(32, 64, 3),
            ConvNormAct(64, 64, 3, stride=2),
        )
        self.head = nn.Linear(64 * (size // 8) ** 2, WIDTH_FRAME)
        self.valid = Valid(frames)

    def forward(self, levels: Tensor, length: Tensor) -> Tensor:
        """Encode what the frontend gives.

        Args:
            levels: float32 [B, frames, height, width].
            length: int32 [B], the frames that count.
        """
        seen = self.frame(levels.reshape(-1, 1, self.size, self.size)).reshape(-1, self.frames, WIDTH_FRAME)
        counted: Tensor = seen * self.valid(length)
        return counted

    def frame(self, levels: Tensor) -> Tensor:
        """Encode single frames, float32 [N, 1, height, width], as float32 [N, 96]."""
        seen: Tensor = torch.relu(self.head(self.blocks(levels).flatten(1)))
        return seen


class TextEncoder(nn.Module):
    """Encode each word by itself, ids int32 [B, words] of which `length` [B] count, as float32 [B, words, 32].

    Args:
        vocabulary: number of tokens.
        words: of the longest text.
    """

    def __init__(self, vocabulary: int, words: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, WIDTH_WORD)
        self.valid = Valid(words)

    def forward(self, ids: Tensor, length: Tensor) -> Tensor:
        """Encode the first `length` words; zeros follow."""
        read: Tensor = self.embedding(ids) * self.valid(length)
        return read


class Valid(nn.Module):
    """Tell which steps count: ones before `length` (int32 [B]) and zeros behind, float32 [B, steps, 1]."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.register_buffer("steps", torch.arange(steps, dtype=torch.int32).unsqueeze(0), persistent=False)
        self.steps: Tensor

    def forward(self, length: Tensor) -> Tensor:
        """Compare each step with the length."""
        ones: Tensor = (self.steps < length.unsqueeze(1)).to(torch.float32).unsqueeze(2)
        return ones


class StepFusion(nn.Module):
    """Concatenate what is seen and read at each step: G_i = [F_i, H_i], float32 [B, steps, 128]."""

    def forward(self, features: Mapping[str, Tensor], present: Tensor) -> Tensor:
        """Fuse.

        Args:
            features: `video` float32 [B, steps, 96] and `text` float32 [B, steps, 32].
            present: float32 [B, 2]; both are always there.
        """
        return torch.cat([features["video"], features["text"]], dim=2)
