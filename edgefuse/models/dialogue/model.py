"""The reference model `dialogue`: what does an assistant reply to a command, written or said, in the room that it sees?

A CNN, a recurrent layer over log-mel frames and an embedding of characters; attention over the tokens of all of them;
a Transformer decoder with a cache. The architecture is frozen: the committed weights belong to it.
"""

from __future__ import annotations

from pathlib import Path

from edgefuse.bundle import spec
from edgefuse.datasets.dialogue.commands import MAX_LENGTH
from edgefuse.datasets.dialogue.items import END, START, STEPS, labels
from edgefuse.datasets.dialogue.speech import SAMPLES
from edgefuse.datasets.digits.espeak import SAMPLE_RATE_HZ
from edgefuse.datasets.digits.text import tokenizer, vocabulary_size
from edgefuse.models.dialogue.decoder import MemoryFusion, TransformerDecoder
from edgefuse.models.dialogue.encoders import AudioEncoder, ImageEncoder, TextEncoder
from edgefuse.models.fusion import FusionModel
from edgefuse.models.reference.weights import load

WIDTH = 96


def model_spec() -> spec.ModelSpec:
    """Return what the model takes and gives: three optional modalities, at most twelve words."""
    return spec.ModelSpec(
        name="dialogue",
        modalities=(
            spec.image("image", height=64, width=64, channels=1, optional=True),
            spec.audio("audio", sample_rate_hz=SAMPLE_RATE_HZ, samples=SAMPLES, optional=True),
            spec.text("text", tokenizer="tokenizer.json", max_length=MAX_LENGTH, optional=True),
        ),
        outputs=(spec.TokensOutput(steps=STEPS, labels=labels(), separator=" ", start=START, end=END),),
    )


def build(weights: str | Path | None = None) -> FusionModel:
    """Build the model in evaluation mode, with the weights of a safetensors file if one is named.

    Raises:
        DataError: the file is missing or holds the weights of another model; the package of commands cannot be fetched.
    """
    described = model_spec()
    encoders = {
        "image": ImageEncoder(WIDTH),
        "audio": AudioEncoder(WIDTH),
        "text": TextEncoder(vocabulary_size(), MAX_LENGTH, WIDTH),
    }
    decoder = TransformerDecoder(len(labels()), STEPS, WIDTH, layers=2, heads=4, dropout=0.1)
    assets = {"tokenizer.json": tokenizer().to_str().encode()}
    model = FusionModel(described, encoders, MemoryFusion(tuple(encoders), WIDTH, 0.1), decoder=decoder, assets=assets)
    if weights is not None:
        load(model, Path(weights))
    return model.eval()
