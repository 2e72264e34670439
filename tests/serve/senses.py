"""A model that sees, hears and reads, as a bundle, made without torch.

Its numbers can be told by hand: `levels` are how bright the picture is and how loud the sound, both from 0 to 1. The
class is that of the larger one, and the text says "stop" to both.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgefuse.bundle.spec import (
    ClassOutput,
    LabelsOutput,
    ModelSpec,
    Source,
    StageInput,
    StageOutput,
    StageSpec,
    TensorSpec,
    ValuesOutput,
    audio,
    image,
    text,
)
from tests import tiny
from tests.serve import voice

BRIGHT = "<i>bright</i>"
"""A name that would be markup in a page that takes it for such."""
LABELS, TAGS, LEVELS = (BRIGHT, "loud", "stop"), ("seen", "heard"), ("light", "sound")
SECONDS = 0.25

_SEEING = """
    numbers = Cast<to = 1>(pixels)
    flat = Flatten(numbers)
    mean = ReduceMean<keepdims = 1>(flat, axes)
    feature = Div(mean, full_scale)"""
_HEARING = """
    loud = Abs(samples)
    feature = ReduceMean<keepdims = 1>(loud, axes)"""
_FUSION = """
    here = MatMul(present, spread)
    all = Concat<axis = 1>(image, audio, text)
    kept = Mul(all, here)
    logits = MatMul(kept, named)
    tags = MatMul(kept, tagged)
    levels = MatMul(kept, told)"""


def senses(path: Path) -> Path:
    """Write the bundle."""
    spec = ModelSpec(
        name="senses",
        metric="",
        modalities=(
            image("image", height=8, width=8, channels=1, optional=True),
            audio("audio", sample_rate_hz=voice.RATE_HZ, samples=int(SECONDS * voice.RATE_HZ), optional=True),
            text("text", tokenizer="tokenizer.json", max_length=6, optional=True),
        ),
        outputs=(
            ClassOutput(labels=LABELS),
            LabelsOutput(name="tags", labels=TAGS),
            ValuesOutput(name="levels", labels=LEVELS),
        ),
    )
    number = (StageOutput(tensor=TensorSpec(name="feature", shape=(1, 1))),)
    seeing, hearing = (
        StageSpec(name=f"{m}_encoder", role="encoder", modality=m, inputs=(voice._raw(spec, m),), outputs=number)
        for m in ("image", "audio")
    )
    present = StageInput(tensor=TensorSpec(name="present", shape=(1, 3)), source=Source(kind="present"))
    sizes = {"image": 1, "audio": 1, "text": 8}
    fusion = StageSpec(
        name="fusion",
        role="fusion",
        inputs=(*(voice._feature(f"{m}_encoder", m, size) for m, size in sizes.items()), present),
        outputs=tuple(voice._result(name, size) for name, size in (("logits", 3), ("tags", 2), ("levels", 2))),
    )
    spread, named = np.zeros((3, 10), np.float32), np.zeros((10, 3), np.float32)
    spread[0, 0] = spread[1, 1] = spread[2, 2:] = 1
    named[0, 0] = named[1, 1] = 8
    named[2 + tiny.VOCABULARY.index("stop"), 2] = 0.05
    told = np.eye(10, 2, dtype=np.float32)
    axes = {"axes": np.array([1])}
    return voice._written(
        path,
        spec,
        (seeing, _SEEING, axes | {"full_scale": np.array(255, np.float32)}),
        (hearing, _HEARING, axes),
        voice._text_encoder(spec),
        (fusion, _FUSION, {"spread": spread, "named": named, "tagged": 4 * told, "told": told}),
    )
