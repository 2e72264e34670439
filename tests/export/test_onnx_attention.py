"""Packed attention is cut into heads in the form that ONNX Runtime runs without copies; anything else stays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import onnx
import onnx_ir as ir
import pytest
import torch
from onnxscript.rewriter._matcher import SimplePatternMatcher
from torch import Tensor, nn
from transformers import T5Config, T5EncoderModel

from edgefuse.bundle import spec
from edgefuse.bundle.manifest import Tolerance
from edgefuse.export.onnx.target import OnnxTarget
from edgefuse.export.target import Lowered
from edgefuse.models.digits.layers import Attention
from edgefuse.registry import create
from edgefuse.runtime.backends.backend import SessionOptions
from edgefuse.stages.agreement import verify
from edgefuse.stages.examples import example_feeds
from edgefuse.stages.explicit import split
from edgefuse.stages.stage import TorchStage

WIDTH, HEADS = 16, 4


class Attends(nn.Module):
    """Self-attention over steps, the last of which are hidden; `length` makes the steps dynamic."""

    def __init__(self, steps: spec.Dim) -> None:
        super().__init__()
        shape = (1, steps, WIDTH)
        self.spec = spec.ModelSpec(
            name="attends", modalities=(spec.tensor("x", shape=shape),), outputs=(spec.EmbeddingOutput(size=WIDTH),)
        )
        torch.manual_seed(0)
        self.attention = Attention(WIDTH, HEADS)

    def forward(self, x: Tensor) -> Tensor:
        mask = (x[:, :, 0] < 0).to(torch.float32)[:, None, None] * -100.0
        y: Tensor = self.attention(x, mask)
        return y[:, 0]


class TwoParts(Attends):
    """Queries that are keys, too: two parts in place of three."""

    def forward(self, x: Tensor) -> Tensor:
        parts = x.reshape(1, x.shape[1], 2, HEADS, 2).permute(2, 0, 3, 1, 4)
        y = torch.softmax(parts[0] @ parts[0].transpose(-1, -2), dim=-1) @ parts[1]
        return torch.cat([y[:, :, 0].flatten(1)] * 2, dim=1)


class Steps(Attends):
    """A recurrence that is written out."""

    def forward(self, x: Tensor) -> Tensor:
        y = x[:, 0]
        for step in range(1, x.shape[1]):
            y = torch.tanh(y + x[:, step])
        return y


class T5(nn.Module):
    """Transformers' encoder: its heads are joined so that torch's attention, as it lies in memory, needs no copy."""

    def __init__(self, steps: spec.Dim) -> None:
        super().__init__()
        ids = spec.tensor("ids", shape=(1, steps), dtype="int32", length=True)
        self.spec = spec.ModelSpec(name="t5", modalities=(ids,), outputs=(spec.EmbeddingOutput(size=WIDTH),))
        torch.manual_seed(0)
        self.encoder = T5EncoderModel(
            T5Config(vocab_size=50, d_model=WIDTH, d_kv=WIDTH // HEADS, d_ff=32, num_layers=1, num_heads=HEADS)
        )

    def forward(self, ids: Tensor, length: Tensor) -> Tensor:
        mask = (torch.arange(ids.shape[1])[None] < length[:, None]).long()
        found: Tensor = self.encoder(input_ids=ids.long(), attention_mask=mask).last_hidden_state
        return found[:, 0]


def stage_of(module: nn.Module) -> TorchStage:
    return split(module.eval())[0]


def kinds(lowered: Lowered) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load_from_string(lowered.data).graph.node)


@pytest.mark.parametrize("steps", [6, spec.Bounded(max=9)], ids=["fixed", "bounded"])
def test_heads_are_split_once_and_answers_stay(steps: spec.Dim) -> None:
    stage = stage_of(Attends(steps))
    lowered = OnnxTarget().lower(stage)
    if isinstance(steps, int):
        assert kinds(lowered)["Split"] == 1
        assert kinds(lowered)["Gather"] <= 2  # what the mask and the last line take
    session = create("backends", "onnx").open(lowered.data, lowered.inputs, lowered.outputs, SessionOptions())
    for feeds in example_feeds(stage, count=4, seed=3):
        assert verify(stage, session, feeds, Tolerance(absolute=1e-5, relative=0.0)).ok


@pytest.mark.parametrize("steps", [6, spec.Bounded(max=9)], ids=["fixed", "bounded"])
@pytest.mark.parametrize("target", ["onnx", pytest.param("tflite", marks=pytest.mark.exhaustive)])
def test_t5_answers_as_in_torch(target: str, steps: spec.Dim) -> None:
    stage, made = stage_of(T5(steps)), create("targets", target)
    lowered = made.lower(stage)
    session = create("backends", made.backend).open(lowered.data, lowered.inputs, lowered.outputs, SessionOptions())
    for feeds in example_feeds(stage, count=4, seed=3):
        assert verify(stage, session, feeds, Tolerance(absolute=1e-4 if made.pads else 1e-5, relative=0.0)).ok


def test_another_number_of_parts_is_left_alone() -> None:
    lowered = OnnxTarget().lower(stage_of(TwoParts(6)))
    assert kinds(lowered)["Split"] == 0


def test_parts_are_looked_for_where_a_projection_is_cut_not_in_all_combinations_of_nodes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried: list[object] = []
    match = SimplePatternMatcher._multi_match

    def counted(self: SimplePatternMatcher, nodes: Iterable[ir.Node], check_removable: bool) -> object:
        tried.append(nodes)
        return match(self, nodes, check_removable)

    monkeypatch.setattr(SimplePatternMatcher, "_multi_match", counted)
    assert kinds(OnnxTarget().lower(stage_of(Steps(24))))["Gather"] == 24
    assert not tried
