"""Small seeded models that make tokens: an LSTM's step, and attention over a cache of bounded length."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from edgefuse.bundle.spec import ModelSpec, TokensOutput, tensor
from edgefuse.models import Decoder, FusionModel
from edgefuse.models.fusion import masked

WORDS = tuple("<>abcdefghij")
START, END = 0, 1
STEPS = 6


class LstmDecoder(Decoder):
    """A cell over the token before and the fused feature, which also makes its first state."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.states = {"h": (size,), "c": (size,)}
        self.first = nn.Linear(size, size)
        self.embedding = nn.Embedding(len(WORDS), size)
        self.cell = nn.LSTMCell(2 * size, size)
        self.vocabulary = nn.Linear(size, len(WORDS))

    def prepare(self, *fused: Tensor) -> dict[str, Tensor]:
        return {"h": torch.tanh(self.first(fused[0])), "context": fused[0]}

    def forward(
        self, token: Tensor, position: Tensor, values: Mapping[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        heard = torch.cat([self.embedding(token), values["context"]], dim=1)
        h, c = self.cell(heard, (values["h"], values["c"]))
        return self.vocabulary(h), {"h": h, "c": c}


class CachedDecoder(Decoder):
    """One block of self-attention over a key/value cache, and a memory that is computed once."""

    def __init__(self, size: int, heads: int = 2) -> None:
        super().__init__()
        self.heads, self.width = heads, size // heads
        self.states = {"keys": (heads, STEPS, self.width), "values": (heads, STEPS, self.width)}
        self.embedding = nn.Embedding(len(WORDS), size)
        self.positions = nn.Embedding(STEPS, size)
        self.projected = nn.Linear(size, 3 * size)
        self.memory = nn.Linear(size, size)
        self.vocabulary = nn.Linear(size, len(WORDS))
        self.register_buffer("places", torch.arange(STEPS, dtype=torch.int32))

    def prepare(self, *fused: Tensor) -> dict[str, Tensor]:
        return {"memory": self.memory(fused[0])}

    def forward(
        self, token: Tensor, position: Tensor, values: Mapping[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        batch, at = len(token), position.reshape(-1, 1)
        places: Tensor = self.places  # type: ignore[assignment] # a buffer
        x = self.embedding(token) + self.positions(position)
        query, key, value = self.projected(x).reshape(batch, 3, self.heads, 1, self.width).unbind(1)
        here = (places == at).reshape(batch, 1, STEPS, 1)
        keys, kept = torch.where(here, key, values["keys"]), torch.where(here, value, values["values"])
        scores = query @ keys.transpose(2, 3) / self.width**0.5
        seen = (places <= at).reshape(batch, 1, 1, STEPS)
        weights = torch.softmax(torch.where(seen, scores, torch.full_like(scores, -1e9)), dim=-1)
        x = torch.relu(x + (weights @ kept).reshape(batch, -1) + values["memory"])
        return self.vocabulary(x), {"keys": keys, "values": kept}


class _Encoder(nn.Module):
    def __init__(self, inputs: int, size: int) -> None:
        super().__init__()
        self.layer = nn.Linear(inputs, size)

    def forward(self, values: Tensor) -> Tensor:
        return torch.relu(self.layer(values))


class _Fusion(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.layer = nn.Linear(2 * size, size)

    def forward(self, features: Mapping[str, Tensor], present: Tensor) -> Tensor:
        kept = [masked(feature, present[:, column]) for column, feature in enumerate(features.values())]
        return torch.relu(self.layer(torch.cat(kept, dim=1)))


def generating(
    kind: type[LstmDecoder] | type[CachedDecoder] = LstmDecoder, size: int = 16, metric: str = ""
) -> FusionModel:
    """Return a seeded model of two optional modalities that makes at most six tokens."""
    torch.manual_seed(0)
    output = TokensOutput(steps=STEPS, labels=WORDS, start=START, end=END)
    modalities = (tensor("left", shape=(1, 8), optional=True), tensor("right", shape=(1, 5), optional=True))
    spec = ModelSpec(name="generating", modalities=modalities, outputs=(output,), metric=metric)
    encoders = {"left": _Encoder(8, size), "right": _Encoder(5, size)}
    return FusionModel(spec, encoders, _Fusion(size), decoder=kind(size)).eval()


def inputs_of(seed: int) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    """Return seeded inputs of it."""
    rng = np.random.default_rng(seed)
    return {"left": rng.standard_normal((1, 8), np.float32), "right": rng.standard_normal((1, 5), np.float32)}


def answer_of(model: FusionModel, inputs: Mapping[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]) -> list[int]:
    """Return what torch says, greedily, up to the end."""
    present = torch.tensor([[float(name in inputs) for name in ("left", "right")]])
    sizes = {"left": 8, "right": 5}
    given = {f"{n}.values": torch.from_numpy(inputs[n]) if n in inputs else torch.zeros(1, s) for n, s in sizes.items()}
    with torch.inference_mode():
        logits = model(given, present)
    ids: list[int] = torch.as_tensor(logits)[0].argmax(dim=1).tolist()
    return ids[: ids.index(END) + 1] if END in ids else ids


class NotTakenApart(nn.Module):
    """The same as a module whose stages nobody names: its forward gives what the decoder prepares steps from."""

    def __init__(self, kind: type[LstmDecoder] | type[CachedDecoder], size: int) -> None:
        super().__init__()
        self.left, self.right = (
            nn.Sequential(nn.Linear(inputs, size), nn.ReLU(), nn.Linear(size, size), nn.ReLU()) for inputs in (8, 5)
        )
        self.fusion = nn.Linear(2 * size, size)
        self.decoder = kind(size)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return torch.relu(self.fusion(torch.cat([self.left(left), self.right(right)], dim=1)))


def not_taken_apart(kind: type[LstmDecoder] | type[CachedDecoder] = LstmDecoder) -> tuple[NotTakenApart, ModelSpec]:
    """Return a seeded one, and its spec."""
    torch.manual_seed(0)
    output = TokensOutput(steps=STEPS, labels=WORDS, start=START, end=END)
    modalities = (tensor("left", shape=(1, 8)), tensor("right", shape=(1, 5)))
    return NotTakenApart(kind, 64).eval(), ModelSpec(name="plain", modalities=modalities, outputs=(output,))
