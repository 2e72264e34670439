"""The reference model `classifier`: which of ten kinds of clothing is shown, described and named aloud?

It is a plain module, not a `FusionModel`: a CNN, a BERT-like encoder of which the first token counts, and a 1-D CNN on
the waveform, called one after the other in `forward`, concatenated, and a head. Nobody tells edgefuse where one
ends; the stages are found. The architecture is frozen: the committed weights belong to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from edgefuse.bundle import spec
from edgefuse.datasets.clothing.names import LABELS, MAX_LENGTH, tokenizer, vocabulary_size
from edgefuse.models.classifier.layers import Bert, Pictures, Waveform
from edgefuse.models.reference.weights import load

WIDTH = 192


class Classifier(nn.Module):
    """Three encoders, each a submodule, and two layers over their features.

    Attributes:
        spec: what the model takes and gives.
        assets: the tokenizer.
    """

    def __init__(self) -> None:
        super().__init__()
        self.spec = model_spec()
        self.assets = {"tokenizer.json": tokenizer().to_str().encode()}
        self.pictures = Pictures(WIDTH)
        self.texts = Bert(vocabulary_size(), MAX_LENGTH, WIDTH)
        self.sounds = Waveform(WIDTH)
        self.join = nn.Linear(3 * WIDTH, WIDTH)
        self.dropout = nn.Dropout(0.1)
        self.head = nn.Linear(WIDTH, len(LABELS))

    def forward(self, image: Tensor, text: Tensor, audio: Tensor, length: Tensor, present: Tensor) -> Tensor:
        """Return logits, float32 [B, 10].

        Args:
            image: uint8 [B, 64, 64, 1].
            text: int32 [B, 32], the first token first.
            audio: float32 [B, 16000] in [-1, 1].
            length: int32 [B], the tokens of each text that count.
            present: float32 [B, 3] of ones and zeros: which of image, text and audio are there.
        """
        return self.fuse(self.encode(image, text, audio, length), present)

    def encode(self, image: Tensor, text: Tensor, audio: Tensor, length: Tensor) -> list[Tensor]:
        """Return the features of picture, text and sound, float32 [B, 192] each.

        Args:
            image: uint8 [B, 64, 64, 1].
            text: int32 [B, 32].
            audio: float32 [B, 16000].
            length: int32 [B].
        """
        levels = image.permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1.0
        return [self.pictures(levels), self.texts(text, length), self.sounds(audio.unsqueeze(1))]

    def fuse(self, features: Sequence[Tensor], present: Tensor) -> Tensor:
        """Return logits, float32 [B, 10]: what is absent counts as zeros."""
        known = [feature * present[:, place : place + 1] for place, feature in enumerate(features)]
        joined = torch.relu(self.join(torch.cat(known, dim=1)))
        logits: Tensor = self.head(self.dropout(joined))
        return logits


def model_spec() -> spec.ModelSpec:
    """Return what the model takes and gives: three optional modalities, ten classes."""
    return spec.ModelSpec(
        name="classifier",
        modalities=(
            spec.image("image", height=64, width=64, channels=1, optional=True),
            spec.text("text", tokenizer="tokenizer.json", max_length=MAX_LENGTH, optional=True),
            spec.audio("audio", sample_rate_hz=16_000, samples=16_000, optional=True),
        ),
        outputs=(spec.ClassOutput(labels=LABELS),),
    )


def build(weights: str | Path | None = None) -> Classifier:
    """Build the model in evaluation mode, with the weights of a safetensors file if one is named.

    Raises:
        DataError: the file is missing or holds the weights of another model.
    """
    model = Classifier()
    if weights is not None:
        load(model, Path(weights))
    return model.eval()
