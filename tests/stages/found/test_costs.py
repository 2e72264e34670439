"""Products are counted however they are written."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from edgefuse.bundle.spec import ClassOutput, ModelSpec, tensor
from edgefuse.stages.found import costs, find

B, N, M, H, D = 3, 5, 7, 2, 4


class Calls(nn.Module):
    def __init__(self, function: Callable[..., Tensor], *weights: tuple[int, ...]) -> None:
        super().__init__()
        self.function = function
        self.weights = nn.ParameterList(torch.randn(shape) for shape in weights)

    def forward(self, *tensors: Tensor) -> Tensor:
        return self.function(*tensors, *self.weights)


def lstm_cell(x: Tensor, state: Tensor, *weights: Tensor) -> Tensor:
    return torch.lstm_cell(x, (state, state), *weights)[1]


Shapes = list[tuple[int, ...]]
PRODUCTS: dict[str, tuple[Callable[..., Tensor], Shapes, Shapes, int]] = {
    "attention": (
        lambda q, k: torch.einsum("bihd, bjhd -> bhij", q, k),
        [(B, N, H, D), (B, M, H, D)],
        [],
        B * H * N * M * D,
    ),
    "ellipsis": (lambda x, w: torch.einsum("...i,ij->...j", x, w), [(B, N, D)], [(D, M)], B * N * D * M),
    "no arrow": (lambda x, w: torch.einsum("bi,ij", x, w), [(B, D)], [(D, M)], B * D * M),
    "three": (
        lambda x, w, y: torch.einsum("bi,ij,bj->b", x, w, y),
        [(B, D), (D, M), (B, M)],
        [],
        B * D * M + B * M,
    ),
    "of one": (lambda x: torch.einsum("bij->bji", x), [(B, D, M)], [], 0),
    "tensordot": (lambda x, w: torch.tensordot(x, w, ([2], [0])), [(B, N, D)], [(D, M)], B * N * D * M),
    "bilinear": (nn.functional.bilinear, [(B, D), (B, M)], [(H, D, M)], B * H * D * M),
    "lstm cell": (
        lstm_cell,
        [(B, D), (B, H)],
        [(4 * H, D), (4 * H, H), (4 * H,), (4 * H,)],
        B * 4 * H * (D + H),
    ),
    "gru cell": (torch.gru_cell, [(B, D), (B, H)], [(3 * H, D), (3 * H, H)], B * 3 * H * (D + H)),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_are_counted_however_they_are_written(name: str) -> None:
    function, shapes, weights, expected = PRODUCTS[name]
    module = Calls(function, *weights)
    program = torch.export.export(module, tuple(torch.randn(shape) for shape in shapes), strict=False)
    assert sum(map(costs.macs, program.graph.nodes)) == expected


class Experts(nn.Module):
    """A mixture of experts as Mixtral's first code had it: each expert gets the steps that chose it."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(8, 3)
        self.experts = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, 8)
        chosen = self.gate(flat).argmax(-1)
        out = torch.zeros_like(flat)
        for number, expert in enumerate(self.experts):
            (rows,) = torch.where(chosen == number)
            out = out.index_add(0, rows, expert(flat[rows]))
        return out.view(x.shape)


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.audio, self.image = nn.Linear(6, 8), nn.Linear(10, 8)
        self.experts, self.head = Experts(), nn.Linear(16, 3)

    def forward(self, audio: Tensor, image: Tensor) -> Tensor:
        heard = self.experts(self.audio(audio)).mean(1)
        logits: Tensor = self.head(torch.cat([heard, self.image(image).relu()], 1))
        return logits


def test_sizes_that_values_decide_are_no_traceback() -> None:
    made = ModelSpec(
        name="mixed",
        modalities=(tensor("audio", shape=(1, 5, 6)), tensor("image", shape=(1, 10))),
        outputs=(ClassOutput(labels=("a", "b", "c")),),
    )
    found = find(Mixed(), made)
    assert [stage.spec.name for stage in found.stages] == ["audio_encoder", "image_encoder", "fusion"], found.notes


class Heads(nn.Module):
    """A transformer's block written with `einsum`, and a feed-forward layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.ff = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        x = x + self.out(torch.einsum("bij,bjd->bid", torch.einsum("bid,bjd->bij", q, k).softmax(-1), v))
        y: Tensor = x + self.ff(x)
        return y


class Narrow(nn.Module):
    """Three sequences, of which one is much narrower than what its blocks make of it."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.audio, self.motion, self.words = nn.Linear(20, width), nn.Conv1d(6, width, 5, 2, 2), nn.Linear(20, width)
        self.blocks = nn.ModuleList(nn.Sequential(Heads(width), Heads(width)) for _ in range(3))
        self.fusion, self.head = Heads(width), nn.Linear(width, 3)

    def forward(self, audio: Tensor, motion: Tensor, words: Tensor) -> Tensor:
        stems = self.audio(audio), self.motion(motion.transpose(1, 2)).transpose(1, 2), self.words(words)
        x = torch.cat([block(stem) for block, stem in zip(self.blocks, stems, strict=True)], 1)
        logits: Tensor = self.head(self.fusion(x).mean(1))
        return logits


def test_no_encoder_is_left_without_work() -> None:
    shapes = {"audio": (1, 24, 20), "motion": (1, 32, 6), "words": (1, 12, 20)}
    modalities = tuple(tensor(name, shape=shape) for name, shape in shapes.items())
    made = ModelSpec(name="narrow", modalities=modalities, outputs=(ClassOutput(labels=("a", "b", "c")),))
    found = find(Narrow(), made)
    assert [work.stage for work in found.work] == ["audio_encoder", "motion_encoder", "words_encoder", "fusion"]
    assert all(work.macs > 0.1 * sum(one.macs for one in found.work) for work in found.work), found.work
