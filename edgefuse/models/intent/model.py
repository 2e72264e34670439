"""The reference model `intent`: what is asked of a home, written or said, in the room that is seen?

The encoders are those of `dialogue`: a CNN, a recurrent layer over log-mel frames, an embedding of characters. A class
token for each output reads their tokens by attention: one for the intent, one for each slot. The architecture is
frozen: the committed weights belong to it.
"""

from __future__ import annotations

from pathlib import Path

from edgefuse.bundle import spec
from edgefuse.datasets.dialogue.speech import SAMPLES
from edgefuse.datasets.digits.espeak import SAMPLE_RATE_HZ
from edgefuse.datasets.digits.text import tokenizer, vocabulary_size
from edgefuse.datasets.intent.requests import MAX_LENGTH, SLOTS
from edgefuse.models.dialogue.encoders import AudioEncoder, ImageEncoder, TextEncoder
from edgefuse.models.fusion import FusionModel
from edgefuse.models.intent.fusion import SlotFusion
from edgefuse.models.reference.weights import load

WIDTH = 96


def model_spec() -> spec.ModelSpec:
    """Return what the model takes and gives: three optional modalities, the intent and three slots."""
    return spec.ModelSpec(
        name="intent",
        modalities=(
            spec.image("image", height=64, width=64, channels=1, optional=True),
            spec.audio("audio", sample_rate_hz=SAMPLE_RATE_HZ, samples=SAMPLES, optional=True),
            spec.text("text", tokenizer="tokenizer.json", max_length=MAX_LENGTH, optional=True),
        ),
        outputs=tuple(spec.ClassOutput(name=name, labels=labels) for name, labels in SLOTS.items()),
    )


def build(weights: str | Path | None = None) -> FusionModel:
    """Build the model in evaluation mode, with the weights of a safetensors file if one is named.

    Raises:
        DataError: the file is missing or holds the weights of another model.
    """
    encoders = {
        "image": ImageEncoder(WIDTH),
        "audio": AudioEncoder(WIDTH),
        "text": TextEncoder(vocabulary_size(), MAX_LENGTH, WIDTH),
    }
    fusion = SlotFusion(tuple(encoders), [len(labels) for labels in SLOTS.values()], WIDTH, dropout=0.1)
    model = FusionModel(model_spec(), encoders, fusion, assets={"tokenizer.json": tokenizer().to_str().encode()})
    if weights is not None:
        load(model, Path(weights))
    return model.eval()
