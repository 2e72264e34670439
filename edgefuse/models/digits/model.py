"""The reference model `digits`: which digit is shown, said and typed?

A MobileNetV2-like encoder for pictures (arXiv:1801.04381), causal convolutions and attention for sound, a small
transformer for text, and attention fusion over one token per modality. The architecture is frozen: the committed
weights belong to it, and every figure is measured against it.
"""

from __future__ import annotations

from pathlib import Path

from edgefuse.bundle import spec
from edgefuse.datasets.digits.text import MAX_LENGTH, tokenizer, vocabulary_size
from edgefuse.models.digits.encoders import CLASSES, AttentionFusion, AudioEncoder, ImageEncoder, TextEncoder
from edgefuse.models.fusion import FusionModel
from edgefuse.models.reference.weights import load


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
    encoders = {"image": ImageEncoder(), "audio": AudioEncoder(), "text": TextEncoder(vocabulary_size(), MAX_LENGTH)}
    assets = {"tokenizer.json": tokenizer().to_str().encode()}
    model = FusionModel(model_spec(), encoders, AttentionFusion(), assets=assets)
    if weights is not None:
        load(model, Path(weights))
    return model.eval()
