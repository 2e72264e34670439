"""The encoders of `captioning`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgefuse.models.assistant import pretrained
from edgefuse.models.assistant.image import ImageEncoder as Whole
from edgefuse.models.assistant.image import ImageNetFrontend, MobileNetV2

CHANNELS = 96
WIDTH = 128
_LAYERS = 14  # of 19: the last at a sixteenth of the picture's size; those above it see too much at once
_EMBEDDING = 64


class ImageEncoder(nn.Module):
    """Encode what the frontend gives, float32 [B, 3, 160, 160], as a map [B, 96, 10, 10]: where matters.

    It is the lower part of MobileNetV2, and stays as it was trained on ImageNet.
    """

    def __init__(self) -> None:
        super().__init__()
        self.frontend = ImageNetFrontend()
        self.backbone = nn.Sequential(*list(MobileNetV2())[:_LAYERS])

    def load_pretrained(self) -> None:
        """Load what others trained; a package is fetched when first needed."""
        whole = Whole(1)
        pretrained.load_image(whole)
        lower = nn.Sequential(*list(whole.backbone)[:_LAYERS])
        self.backbone.load_state_dict(lower.state_dict())

    def forward(self, x: Tensor) -> Tensor:
        """Encode what the frontend gives."""
        y: Tensor = self.backbone(x)
        return y


class PrefixEncoder(nn.Module):
    """Encode word ids, int32 [B, max_length] of which `length` [B] count, as the last state of an LSTM, [B, 128].

    Args:
        words: of the vocabulary.
        max_length: tokens of a text, at the most.
    """

    def __init__(self, words: int, max_length: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, _EMBEDDING)
        self.layer = nn.LSTM(_EMBEDDING, WIDTH, batch_first=True)
        self.register_buffer("ends", torch.arange(1, max_length + 1, dtype=torch.int32).unsqueeze(0), persistent=False)
        self.ends: Tensor

    def forward(self, ids: Tensor, length: Tensor) -> Tensor:
        """Encode the first `length` words; what follows them does not matter."""
        states = self.layer(self.embedding(ids))[0]
        last = (self.ends == length.unsqueeze(1)).to(torch.float32)
        y: Tensor = (states * last.unsqueeze(2)).sum(dim=1)
        return y
