"""The reference model `vqa` (visual question answering): a picture and a question, to one of 28 answers."""

from __future__ import annotations

from pathlib import Path

from edgefuse.bundle import spec
from edgefuse.datasets.scenes import names, questions
from edgefuse.datasets.scenes.composition import SIZE
from edgefuse.models.fusion import FusionModel
from edgefuse.models.reference.weights import load
from edgefuse.models.vqa.encoders import ImageEncoder, QuestionEncoder
from edgefuse.models.vqa.fusion import FilmFusion


def model_spec() -> spec.ModelSpec:
    """Return what the model takes and gives: a picture and a question, either of which may be absent, and classes."""
    return spec.ModelSpec(
        name="vqa",
        modalities=(
            spec.image("image", height=SIZE, width=SIZE, optional=True),
            spec.text("question", tokenizer="tokenizer.json", max_length=questions.MAX_LENGTH, optional=True),
        ),
        outputs=(spec.ClassOutput(labels=names.ANSWERS),),
    )


def build(weights: str | Path | None = None, dropout: float = 0.0) -> FusionModel:
    """Build the model in evaluation mode.

    Args:
        weights: a safetensors file; random weights if None.
        dropout: in the fusion's head, for training.

    Raises:
        DataError: the file is missing or holds the weights of another model.
    """
    words = questions.tokens()
    model = FusionModel(
        model_spec(),
        {"image": ImageEncoder(), "question": QuestionEncoder(len(words), questions.MAX_LENGTH)},
        FilmFusion(len(names.ANSWERS), dropout),
        assets={"tokenizer.json": names.tokenizer(words).to_str().encode()},
    )
    if weights is not None:
        load(model, Path(weights))
    return model.eval()
