"""Two encoders into one space: pictures, and words for colours, as points of the colour that they have."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import msgspec
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from edgefuse import registry
from edgefuse.bundle import spec
from edgefuse.bundle.reader import open_bundle
from edgefuse.bundle.spec import EmbeddingOutput, ModelSpec
from edgefuse.bundle.writer import write_bundle
from edgefuse.stages.found import find
from tests.float_bundle import float_bundle

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "yellow": (255, 255, 0), "white": (255,) * 3}
_WORDS = ("[PAD]", "[UNK]", *COLOURS)


class Colours(nn.Module):
    """Embed the mean colour of a picture, and that of the words of a text.

    Args:
        scale: of the colours of pictures; other scales give other files.
    """

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.spec = model_spec()
        table = torch.tensor([(0, 0, 0), (1, 1, 1), *COLOURS.values()], dtype=torch.float32)
        self.words = nn.Embedding.from_pretrained(table)
        self.shades = nn.Linear(3, 3)
        with torch.no_grad():
            self.shades.weight.copy_(scale * torch.eye(3))
            self.shades.bias.fill_(1e-3)

    def forward(self, image: Tensor, text: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        """Return the points of pictures, uint8 [B, 8, 8, 3], and texts, int32 [B, 4], of which `length` [B] count."""
        shade = self.shades(image.to(torch.float32).mean(dim=(1, 2)) / 255.0)
        counted = (torch.arange(4)[None] < length[:, None]).to(torch.float32)
        told = (self.words(text) * counted[:, :, None]).sum(dim=1) + 1e-3
        return shade, told


def model_spec() -> ModelSpec:
    """Return what the model takes and gives."""
    return ModelSpec(
        name="colours",
        modalities=(
            spec.image("image", height=8, width=8, optional=True),
            spec.text("text", tokenizer="tokenizer.json", max_length=4, optional=True),
        ),
        outputs=(
            EmbeddingOutput(name="shade", size=3, pair="word"),
            EmbeddingOutput(name="word", size=3, pair="shade"),
        ),
    )


def tokenizer() -> bytes:
    """Return a `tokenizer.json` that splits at spaces."""
    vocabulary = {word: index for index, word in enumerate(_WORDS)}
    return json.dumps(
        {
            "version": "1.0",
            "pre_tokenizer": {"type": "WhitespaceSplit"},
            "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]"},
        }
    ).encode()


def bundle(path: Path) -> Path:
    """Write a bundle with the rungs `float`, and `other` whose file for pictures is another one."""
    float_bundle(path, find(Colours().eval()), {"tokenizer.json": tokenizer()})
    with open_bundle(path) as opened:
        manifest = opened.manifest
        contents = {file.path: opened.read(file.path) for file in manifest.files}
    stage = next(one for one in find(Colours(scale=2.0).eval()).stages if one.spec.name == "image_encoder")
    lowered = registry.create("targets", "onnx").lower(stage)
    first = manifest.candidate("image_encoder.float")
    other = msgspec.structs.replace(
        first,
        id="image_encoder.other",
        file="stages/image_encoder.other.onnx",
        sha256=hashlib.sha256(lowered.data).hexdigest(),
        size_bytes=len(lowered.data),
    )
    (rung,) = manifest.rungs
    chosen = {**rung.candidates, "image_encoder": other.id}
    manifest = msgspec.structs.replace(
        manifest,
        candidates=tuple(sorted((*manifest.candidates, other), key=lambda one: one.id)),
        rungs=(rung, msgspec.structs.replace(rung, name="other", candidates=chosen)),
    )
    write_bundle(path, manifest, {**contents, other.file: lowered.data})
    return path


def pictures(folder: Path) -> Path:
    """Write a picture of each colour into a folder, and return it."""
    folder.mkdir()
    for name, colour in COLOURS.items():
        Image.fromarray(np.full((8, 8, 3), colour, np.uint8)).save(folder / f"{name}.png")
    return folder
