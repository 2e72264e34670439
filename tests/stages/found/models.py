"""Small models as people write them: plain modules, called by keyword."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - as everyone calls it
from torch import Tensor, nn

from edgefuse.bundle.spec import (
    Bounded,
    ClassOutput,
    Dim,
    DType,
    EmbeddingOutput,
    Modality,
    ModelSpec,
    Output,
    TensorSpec,
    tensor,
    tensors,
)

CLASSES = ClassOutput(labels=tuple("abcd"))


def described(*modalities: Modality, outputs: Sequence[Output] = (CLASSES,), name: str = "plain") -> ModelSpec:
    return ModelSpec(name=name, modalities=modalities, outputs=tuple(outputs))


def several(name: str, *arrays: tuple[str, DType, tuple[Dim, ...]]) -> Modality:
    """Describe a modality of several arrays: name, type and shape of each."""
    return tensors(name, *(TensorSpec(name=array, dtype=dtype, shape=shape) for array, dtype, shape in arrays))


class Encoder(nn.Module):
    """Two layers over a sequence, and their mean."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(width_in, 64)
        self.second = nn.Linear(64, width)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(self.first(x).relu()).mean(1)
        return y


class Plain(nn.Module):
    """Two encoders and a head; a dict with an output that nobody asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.sound, self.motion = Encoder(8, 16), Encoder(6, 16)
        self.head = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))

    def forward(self, sound: Tensor, motion: Tensor) -> dict[str, Tensor]:
        features = torch.cat([self.sound(sound), self.motion(motion)], 1)
        return {"loss": features.sum(), "logits": self.head(features)}


SOUND = tensor("sound", shape=(1, Bounded(max=12), 8))
MOTION = tensor("motion", shape=(1, 7, 6))


class Text(nn.Module):
    """A transformer over ids and a mask, as Hugging Face writes them: int64 ids, a mask of numbers."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(100, width), nn.Embedding(16, width)
        self.query, self.key, self.value = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        batch, steps = input_ids.shape
        x = self.tokens(input_ids) + self.places(torch.arange(steps, device=input_ids.device))
        mask = (1.0 - attention_mask[:, None, None, :].to(x.dtype)) * -1e4
        q, k, v = (layer(x).view(batch, steps, 4, -1).transpose(1, 2) for layer in (self.query, self.key, self.value))
        x = x + F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).reshape(batch, steps, -1)
        y: Tensor = self.norm(x + self.narrow(F.gelu(self.wide(x))))
        return y


class Vision(nn.Module):
    """A few convolutions."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU()
        )
        self.head = nn.Linear(16, width)

    def forward(self, pixel_values: Tensor) -> Tensor:
        y: Tensor = self.head(self.body(pixel_values).mean((2, 3)))
        return y


@dataclass
class ClipOutput:
    """Named outputs, of which two are wanted."""

    logits_per_image: Tensor
    image_embeds: Tensor
    text_embeds: Tensor


class Clip(nn.Module):
    """Two encoders, projections, normalised embeddings, and a matrix of logits that couples the samples of a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.text_model, self.vision_model = Text(), Vision()
        self.text_projection = nn.Linear(32, 24, bias=False)
        self.visual_projection = nn.Linear(32, 24, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(2.6))

    def forward(
        self, input_ids: Tensor, pixel_values: Tensor, attention_mask: Tensor, return_loss: bool | None = None
    ) -> ClipOutput:
        image = F.normalize(self.visual_projection(self.vision_model(pixel_values)), dim=-1)
        text = self.text_projection(self.text_model(input_ids, attention_mask)[:, 0])
        text = text / text.norm(dim=-1, keepdim=True)
        return ClipOutput(image @ text.T * self.logit_scale.exp(), image, text)


def clip_spec() -> ModelSpec:
    picture = several("image", ("pixel_values", "float32", (1, 3, 32, 32)))
    words = several("text", ("input_ids", "int32", (1, 16)), ("attention_mask", "int32", (1, 16)))
    outputs = (EmbeddingOutput(name="image_embeds", size=24), EmbeddingOutput(name="text_embeds", size=24))
    return described(picture, words, outputs=outputs, name="clip")


class Film(nn.Module):
    """Convolutions that a sentence scales and shifts at every layer."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.GRU(12, 32, batch_first=True)
        self.convolutions = nn.ModuleList(nn.Conv1d(8 if i == 0 else 64, 64, 3, padding=1) for i in range(4))
        self.scales = nn.ModuleList(nn.Linear(32, 64) for _ in range(4))
        self.shifts = nn.ModuleList(nn.Linear(32, 64) for _ in range(4))
        self.stem = nn.Sequential(nn.Conv1d(8, 32, 5, padding=2), nn.ReLU(), nn.Conv1d(32, 8, 5, padding=2))
        self.head = nn.Linear(64, 4)

    def forward(self, signal: Tensor, words: Tensor) -> Tensor:
        condition = self.words(words)[1][0]
        x = self.stem(signal)
        for layer, scale, shift in zip(self.convolutions, self.scales, self.shifts, strict=True):
            x = torch.relu(layer(x) * (1 + scale(condition)[:, :, None]) + shift(condition)[:, :, None])
        y: Tensor = self.head(x.mean(2))
        return y


def film_spec() -> ModelSpec:
    return described(tensor("signal", shape=(1, 8, 40)), tensor("words", shape=(1, 20, 12)), name="film")


class CrossLayer(nn.Module):
    """A query attends to a memory."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key, self.value = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, width)
        self.out, self.norm = nn.Linear(width, width), nn.LayerNorm(width)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        batch, steps, width = x.shape
        q, k, v = (
            layer(y).view(batch, -1, 4, width // 4).transpose(1, 2)
            for layer, y in ((self.query, x), (self.key, memory), (self.value, memory))
        )
        mixed = torch.softmax(q @ k.transpose(-1, -2) / 8**0.5, -1) @ v
        y: Tensor = self.norm(x + self.out(mixed.transpose(1, 2).reshape(batch, steps, width)))
        return y


class Crossed(nn.Module):
    """Words that look at a picture's patches at every layer."""

    def __init__(self, layers: int = 3) -> None:
        super().__init__()
        self.text = Text()
        self.patches = nn.Sequential(nn.Conv2d(3, 32, 8, 8), nn.ReLU(), nn.Conv2d(32, 64, 1), nn.Conv2d(64, 32, 1))
        self.layers = nn.ModuleList(CrossLayer(32) for _ in range(layers))
        self.head = nn.Linear(32, 4)

    def forward(self, image: Tensor, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        memory = self.patches(image).flatten(2).transpose(1, 2)
        x = self.text(ids, mask)
        for layer in self.layers:
            x = layer(x, memory)
        weight = mask.to(x.dtype)[:, :, None]
        return self.head((x * weight).sum(1) / weight.sum(1).clamp(min=1.0)), x


def crossed_spec() -> ModelSpec:
    words = several("text", ("ids", "int32", (1, 16)), ("mask", "int32", (1, 16)))
    return described(tensor("image", shape=(1, 3, 32, 32)), words, name="crossed")


class Pairs(nn.Module):
    """Sound and motion meet first, then the table."""

    def __init__(self) -> None:
        super().__init__()
        self.sound, self.motion, self.table = Encoder(8, 32), Encoder(6, 32), nn.Linear(5, 32)
        self.pair = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32))
        self.head = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))

    def forward(self, sound: Tensor, motion: Tensor, table: Tensor) -> Tensor:
        pair = self.pair(torch.cat([self.sound(sound), self.motion(motion)], 1))
        y: Tensor = self.head(torch.cat([pair, self.table(table)], 1))
        return y


def pairs_spec() -> ModelSpec:
    return described(SOUND, MOTION, tensor("table", shape=(1, 5)), name="pairs")


class Siamese(nn.Module):
    """One encoder for both inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder(6, 16)
        self.head = nn.Linear(16, 4)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        y: Tensor = self.head((self.encoder(left) - self.encoder(right)).abs())
        return y


def siamese_spec() -> ModelSpec:
    return described(tensor("left", shape=(1, 7, 6)), tensor("right", shape=(1, 7, 6)), name="siamese")
