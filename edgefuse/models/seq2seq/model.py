"""The reference model `seq2seq`: a clip of digits and a word for each frame, answered word by word.

What is seen and read at a step stands side by side, G_i = [F_i, H_i]; a recurrent step answers from it and from the
answer before, O_i = f(G_i, O_{i-1}) (the form of courses on multimodal systems).
"""

from __future__ import annotations

from pathlib import Path

import torch

from edgefuse.bundle import spec
from edgefuse.datasets.sequence import words
from edgefuse.datasets.sequence.items import FRAMES, FRAMES_PER_SECOND, SIZE, STEPS
from edgefuse.models.fusion import FusionModel
from edgefuse.models.reference.weights import load
from edgefuse.models.seq2seq.decoder import StepDecoder
from edgefuse.models.seq2seq.layers import WIDTH, StepFusion, TextEncoder, VideoEncoder

OUTPUT = spec.TokensOutput(
    steps=STEPS, labels=words.LABELS, separator=" ", start=words.START, end=words.END, metric="token_accuracy"
)


def model_spec() -> spec.ModelSpec:
    """Return what the model takes and gives."""
    return spec.ModelSpec(
        name="seq2seq",
        modalities=(
            spec.video("video", height=SIZE, width=SIZE, channels=1, frames=FRAMES, fps=FRAMES_PER_SECOND, length=True),
            spec.text("text", tokenizer="tokenizer.json", max_length=FRAMES),
        ),
        outputs=(OUTPUT,),
    )


def build(weights: str | Path | None = None) -> FusionModel:
    """Build the model in evaluation mode, with the weights of a safetensors file if one is named.

    Raises:
        DataError: the file is missing or holds the weights of another model.
    """
    encoders: dict[str, torch.nn.Module] = {
        "video": VideoEncoder(SIZE, FRAMES),
        "text": TextEncoder(words.vocabulary_size(), FRAMES),
    }
    model = FusionModel(
        model_spec(),
        encoders,
        StepFusion(),
        decoder=StepDecoder(WIDTH, FRAMES, len(words.LABELS)),
        assets={"tokenizer.json": words.tokenizer().to_str().encode()},
    )
    if weights is not None:
        load(model, Path(weights))
    return model.eval()
