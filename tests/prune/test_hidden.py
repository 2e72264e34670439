"""Narrowing the inside of blocks: what shrinks, and what keeps its width."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgefuse.bundle.manifest import PruningStep
from edgefuse.errors import PruneError
from edgefuse.export.onnx.target import OnnxTarget
from edgefuse.models.assistant.text import BertLayer
from edgefuse.models.digits.layers import Attention
from edgefuse.prune.hidden import HiddenPruner
from edgefuse.prune.persist import restore, save
from edgefuse.prune.pruner import apply_steps
from edgefuse.stages.stage import TorchStage


def step(ratio: float, importance: str = "") -> PruningStep:
    return PruningStep(method="hidden", ratio=ratio, importance=importance)


class Sentence(nn.Module):
    """Ids [B, 6] to a feature [B, 8] by two layers of MiniLM."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 384)
        self.layers = nn.ModuleList(BertLayer() for _ in range(2))
        self.head = nn.Linear(384, 8)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.table(ids)
        for layer in self.layers:
            x = layer(x, torch.zeros(1))
        y: Tensor = self.head(x.mean(dim=1))
        return y


class Inverted(nn.Module):
    """A picture through a block that widens, with a residual around it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3)
        self.widen = nn.Conv2d(32, 64, 1)
        self.filter = nn.Conv2d(64, 64, 3, padding=1, groups=64)
        self.narrow = nn.Conv2d(64, 32, 1)
        self.head = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.narrow(torch.relu(self.filter(torch.relu(self.widen(x)))))
        y: Tensor = self.head(x.mean(dim=(2, 3)))
        return y


class Unblocked(nn.Module):
    """A stream between sums: nothing of it is hidden."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Linear(5, 32)
        self.right = nn.Linear(5, 32)
        self.head = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.left(x) + self.right(x))
        return y


@pytest.mark.parametrize("importance", ["magnitude", "taylor"])
def test_hidden_units_and_heads_go_and_the_stream_and_its_table_stay(
    stage_of: Any, examples_of: Any, importance: str
) -> None:
    stage = stage_of(Sentence(), (1, 6), "int32")
    pruned: Any = HiddenPruner().prune(stage, step(0.5, importance), examples_of(stage))
    assert torch.equal(pruned.table.weight, stage.module.table.weight)
    for layer in pruned.layers:
        assert (layer.attention.heads, layer.attention.head_width) == (6, 32)
        assert layer.attention.qkv.weight.shape == (3 * 192, 384)
        assert layer.feed_forward[0].weight.shape == (768, 384)
        assert layer.norm1.normalized_shape == (384,)
    inputs, (expected,) = examples_of(stage).batch(range(3))
    assert pruned(*inputs).shape == expected.shape
    assert torch.equal(restore(stage.module, save(pruned))(*inputs), pruned(*inputs))


def test_it_follows_depth_and_lowers(stage_of: Any, examples_of: Any) -> None:
    stage = stage_of(Sentence(), (1, 6), "int32")
    steps = [PruningStep(method="depth", ratio=0.5), step(0.35, "taylor")]
    pruned: Any = apply_steps(stage, steps, examples_of(stage))
    (attention,) = [part for part in pruned.modules() if isinstance(part, Attention)]
    assert attention.heads == 8
    # `lower` compares the file with torch.
    assert len(OnnxTarget().lower(TorchStage(stage.spec, pruned)).data) < 6_000_000


def test_an_inverted_residual_loses_its_inner_channels_only(stage_of: Any, examples_of: Any) -> None:
    stage = stage_of(Inverted(), (1, 3, 8, 8))
    pruned: Any = HiddenPruner().prune(stage, step(0.5), examples_of(stage))
    assert (pruned.widen.out_channels, pruned.filter.groups, pruned.narrow.in_channels) == (32, 32, 32)
    assert pruned.stem.out_channels == pruned.narrow.out_channels == 32


def test_it_is_nearer_to_the_unpruned_stage_than_narrowing_everything(
    digits: Mapping[str, TorchStage], examples_of: Any
) -> None:
    stage = digits["text_encoder"]
    examples = examples_of(stage)
    inputs, (expected,) = examples.batch(range(6))

    def error(method: str) -> float:
        steps = [PruningStep(method=method, ratio=0.5, importance="taylor")]
        with torch.no_grad():
            return float((apply_steps(stage, steps, examples)(*inputs) - expected).square().mean())

    assert error("hidden") < error("structured")


def test_a_stage_without_blocks_has_nothing_hidden(stage_of: Any, examples_of: Any) -> None:
    stage = stage_of(Unblocked(), (1, 5))
    with pytest.raises(PruneError, match=r"'hidden' can prune: expected hidden units or heads inside its blocks"):
        HiddenPruner().prune(stage, step(0.5), examples_of(stage))
