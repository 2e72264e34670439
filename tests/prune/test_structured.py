from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from edgefuse.bundle.manifest import PruningStep
from edgefuse.errors import PruneError
from edgefuse.export.onnx.target import OnnxTarget
from edgefuse.export.tflite.target import TfliteTarget
from edgefuse.models.digits.layers import Attention
from edgefuse.prune.heads import kept_heads
from edgefuse.prune.pruner import apply_steps
from edgefuse.prune.structured import StructuredPruner, rounded
from edgefuse.stages.stage import TorchStage

PRUNED = ("image_encoder", "audio_encoder", "text_encoder", "fusion")


def _step(ratio: float, importance: str = "") -> PruningStep:
    return PruningStep(method="structured", ratio=ratio, importance=importance)


def _flops(module: nn.Module, inputs: tuple[Tensor, ...]) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(*inputs)
    return int(counter.get_total_flops())


def _same(left: nn.Module, right: nn.Module) -> bool:
    ours, theirs = left.state_dict(), right.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("name", PRUNED)
@pytest.mark.parametrize("ratio", [0.25, 0.75])
def test_multiplications_fall_with_the_square_and_interfaces_stay(
    digits: Mapping[str, TorchStage], examples_of: Any, name: str, ratio: float
) -> None:
    stage, examples = digits[name], examples_of(digits[name])
    before = copy.deepcopy(stage.module)
    pruned = StructuredPruner().prune(stage, _step(ratio, "taylor" if ratio == 0.75 else "magnitude"), examples)
    inputs, (expected,) = examples.batch(range(3))
    with torch.no_grad():
        assert pruned(*inputs).shape == expected.shape
    share = _flops(pruned, inputs) / _flops(stage.module, inputs)
    assert (1 - ratio) ** 2 * 0.85 < share < 1 - ratio
    assert _same(stage.module, before)
    assert not pruned.training


def test_a_pruned_stage_lowers_to_onnx_with_the_same_nodes(digits: Mapping[str, TorchStage], examples_of: Any) -> None:
    import onnx

    name = "fusion"
    pruned = StructuredPruner().prune(digits[name], _step(0.5), examples_of(digits[name]))
    # `lower` compares the file with torch.
    files = [OnnxTarget().lower(TorchStage(digits[name].spec, module)) for module in (digits[name].module, pruned)]
    kinds = [sorted(node.op_type for node in onnx.load_from_string(file.data).graph.node) for file in files]
    assert kinds[0] == kinds[1]
    assert len(files[1].data) < len(files[0].data) / 2.5


def test_a_pruned_stage_lowers_to_tflite(digits: Mapping[str, TorchStage], examples_of: Any) -> None:
    stage = digits["fusion"]
    pruned = StructuredPruner().prune(stage, _step(0.625), examples_of(stage))
    lowered = TfliteTarget().lower(TorchStage(stage.spec, pruned))
    assert len(lowered.data) < 500_000


def test_ratio_zero_changes_nothing(digits: Mapping[str, TorchStage], examples_of: Any) -> None:
    for name in PRUNED:
        pruned = StructuredPruner().prune(digits[name], _step(0.0), examples_of(digits[name]))
        assert pruned is not digits[name].module
        assert _same(pruned, digits[name].module)


@pytest.mark.parametrize("importance", ["magnitude", "taylor"])
def test_the_same_step_gives_the_same_weights(
    digits: Mapping[str, TorchStage], examples_of: Any, importance: str
) -> None:
    stage = digits["text_encoder"]
    first, second = (StructuredPruner().prune(stage, _step(0.5, importance), examples_of(stage)) for _ in range(2))
    assert _same(first, second)


def test_dead_channels_go_first_and_the_output_stays(stage_of: Any, examples_of: Any) -> None:
    module = nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 3))
    stage = stage_of(module, (1, 6))
    with torch.no_grad():
        module[2].get_parameter("weight")[:, ::2] = 0
    examples = examples_of(stage)
    inputs, (expected,) = examples.batch(range(6))
    pruned = StructuredPruner().prune(stage, _step(0.5, "taylor"), examples)
    assert pruned[0].out_features == 32  # type: ignore[index]
    torch.testing.assert_close(pruned(*inputs), expected)


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(5, 64)
        self.attention = Attention(64, 4)
        self.leave = nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.enter(x)
        result: Tensor = self.leave(y + self.attention(y, torch.zeros(1)))
        return result


def test_a_dead_head_goes_first_and_the_output_stays(stage_of: Any, examples_of: Any) -> None:
    module = Attending()
    stage = stage_of(module, (1, 7, 5))
    with torch.no_grad():
        module.attention.out.weight[:, 16:32] = 0
        # Half of each head's query and value dimensions do nothing, and not the same ones.
        module.attention.qkv.weight.view(3, 4, 16, 64)[0, :, ::2] = 0
        module.attention.qkv.bias.view(3, 4, 16)[0, :, ::2] = 0
        module.attention.out.weight.view(64, 4, 16)[:, :, 8:] = 0
        module.leave.weight[:, ::2] = 0
    examples = examples_of(stage)
    inputs, (expected,) = examples.batch(range(4))
    from edgefuse.prune.heads import heads_of
    from edgefuse.prune.importance import rank

    pruned = copy.deepcopy(module)
    (heads,) = heads_of(pruned)
    scores = rank("taylor", pruned, [heads.heads, heads.keys, heads.values], examples)
    heads.keep(3, 8, (scores[0], scores[1], scores[2]))
    assert (pruned.attention.heads, pruned.attention.head_width) == (3, 8)
    torch.testing.assert_close(pruned(*inputs), expected)


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(5, 64)
        self.leave = nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.enter(x).chunk(2, dim=-1)
        y: Tensor = self.leave(torch.sigmoid(gate) * value)
        return y


class GatedInOne(Gated):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.leave(nn.functional.glu(self.enter(x), dim=-1))
        return y


class GatedChannels(nn.Module):
    """The gate of a Conformer's convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.middle = nn.Conv1d(5, 64, 1), nn.Conv1d(32, 32, 3, padding=1, groups=32)
        self.leave = nn.Conv1d(32, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.leave(torch.relu(self.middle(nn.functional.glu(self.enter(x.mT), dim=1)))).mean(2)
        return y


class PooledInPairs(Gated):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.leave(nn.functional.avg_pool1d(self.enter(x).unsqueeze(1), 2).squeeze(1))
        return y


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], *, bidirectional: bool, layers: int = 1) -> None:
        super().__init__()
        self.enter = nn.Linear(5, 32)
        self.rnn = kind(32, 40, layers, batch_first=True, bidirectional=bidirectional)  # type: ignore[arg-type]
        self.leave = nn.Linear(80 if bidirectional else 40, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.leave(self.rnn(self.enter(x))[0].mean(dim=1))
        return y


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("importance", ["magnitude", "taylor"])
def test_recurrent_layers_get_narrower(
    stage_of: Any, examples_of: Any, kind: type[nn.RNNBase], bidirectional: bool, importance: str
) -> None:
    stage = stage_of(Recurrent(kind, bidirectional=bidirectional, layers=2), (1, 6, 5))
    examples = examples_of(stage)
    pruned: Any = StructuredPruner().prune(stage, _step(0.5, importance), examples)
    assert (pruned.rnn.input_size, pruned.rnn.hidden_size) == (16, 24)
    assert pruned.leave.in_features == (48 if bidirectional else 24)
    inputs, (expected,) = examples.batch(range(4))
    assert pruned(*inputs).shape == expected.shape


def test_a_dead_hidden_unit_goes_first(stage_of: Any, examples_of: Any) -> None:
    module = Recurrent(nn.LSTM, bidirectional=False)
    stage = stage_of(module, (1, 6, 5))
    with torch.no_grad():
        module.rnn.get_parameter("weight_hh_l0")[:, ::2] = 0
        module.leave.weight[:, ::2] = 0
        module.rnn.get_parameter("weight_ih_l0")[:, ::2] = 0
    examples = examples_of(stage)
    inputs, (expected,) = examples.batch(range(4))
    pruned: Any = StructuredPruner().prune(stage, _step(0.5, "taylor"), examples)
    assert pruned.rnn.hidden_size == 24
    torch.testing.assert_close(pruned(*inputs), expected)


def test_an_attention_that_cannot_be_cut_is_left_alone_and_named(
    stage_of: Any, examples_of: Any, caplog: pytest.LogCaptureFixture
) -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter = nn.Linear(5, 32)
            self.mixer = nn.MultiheadAttention(32, 4, kdim=5, vdim=5, batch_first=True)
            self.hidden = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 32))
            self.leave = nn.Linear(32, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.enter(x)
            y = y + self.mixer(y, x, x, need_weights=False)[0]
            z: Tensor = self.leave(y + self.hidden(y))
            return z

    stage = stage_of(Block(), (1, 7, 5))
    with caplog.at_level(logging.WARNING):
        pruned: Any = StructuredPruner().prune(stage, _step(0.5), examples_of(stage))
    assert "'mixer'" in caplog.text
    assert pruned.enter.out_features == 32
    assert pruned.hidden[0].out_features == 32


@pytest.mark.parametrize(("module", "shape"), [(Gated, (1, 5)), (GatedInOne, (1, 5)), (GatedChannels, (1, 9, 5))])
def test_gated_units_lose_both_halves(
    stage_of: Any, examples_of: Any, module: type[nn.Module], shape: tuple[int, ...]
) -> None:
    stage = stage_of(module(), shape)
    pruned: Any = StructuredPruner().prune(stage, _step(0.5), examples_of(stage))
    assert (pruned.enter.weight.shape[0], pruned.leave.weight.shape[1]) == (32, 16)
    inputs, _ = examples_of(stage).batch(range(2))
    assert pruned(*inputs).shape == (2, 3)


def test_an_operator_that_hides_which_channels_go_together_keeps_its_width(stage_of: Any, examples_of: Any) -> None:
    stage = stage_of(PooledInPairs(), (1, 5))
    with pytest.raises(PruneError, match="holds nothing that 'structured' can prune"):
        StructuredPruner().prune(stage, _step(0.5), examples_of(stage))


def test_sizes_written_into_a_forward_pass_are_an_error(stage_of: Any, examples_of: Any) -> None:
    class Stubborn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter = nn.Linear(5, 32)
            self.leave = nn.Linear(32, 3)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.leave(self.enter(x).reshape(-1, 4, 8).transpose(1, 2).reshape(-1, 32))
            return y

    stage = stage_of(Stubborn(), (1, 5))
    with pytest.raises(PruneError, match=r"'own_encoder'.*Fix: take sizes from tensors"):
        StructuredPruner().prune(stage, _step(0.5), examples_of(stage))


@pytest.mark.parametrize("ratio", [1.2, -0.1, 1.0, float("nan")])
def test_a_ratio_that_is_no_fraction_is_refused(
    digits: Mapping[str, TorchStage], examples_of: Any, ratio: float
) -> None:
    stage = digits["fusion"]
    with pytest.raises(PruneError, match=rf"'structured'.*got {ratio}, expected at least 0 and below 1\. Fix: write"):
        StructuredPruner().prune(stage, _step(ratio), examples_of(stage))


def test_an_unknown_importance_or_method_is_refused(digits: Mapping[str, TorchStage], examples_of: Any) -> None:
    stage, examples = digits["fusion"], examples_of(digits["fusion"])
    with pytest.raises(PruneError, match=r"got 'random', expected 'magnitude' or 'taylor'"):
        StructuredPruner().prune(stage, _step(0.5, "random"), examples)
    with pytest.raises(PruneError, match=r"unknown pruner 'thinner': expected .*structured"):
        apply_steps(stage, [PruningStep(method="thinner", ratio=0.5)], examples)


@pytest.mark.parametrize("name", ["image_frontend", "audio_frontend"])
def test_a_frontend_has_nothing_to_prune(digits: Mapping[str, TorchStage], examples_of: Any, name: str) -> None:
    with pytest.raises(PruneError, match=f"'{name}' holds nothing that 'structured' can prune.*Fix: leave this stage"):
        StructuredPruner().prune(digits[name], _step(0.5), examples_of(digits[name]))


def test_steps_are_applied_in_order(digits: Mapping[str, TorchStage], examples_of: Any) -> None:
    stage, examples = digits["audio_encoder"], examples_of(digits["audio_encoder"])
    pruned: Any = apply_steps(stage, [PruningStep(method="depth", ratio=0.5), _step(0.5)], examples)
    assert sum(1 for part in pruned.modules() if isinstance(part, Attention)) == 1
    assert pruned.head.in_features == 96
    assert _same(apply_steps(stage, [], examples), stage.module)


def test_widths_are_rounded_where_they_are_wide() -> None:
    assert [rounded(192, ratio) for ratio in (0, 0.25, 0.5, 0.625, 0.99)] == [192, 144, 96, 72, 8]
    assert [rounded(10, ratio) for ratio in (0, 0.25, 0.5, 0.99)] == [10, 8, 5, 1]
    assert [kept_heads(4, 48, ratio, rounded) for ratio in (0.25, 0.5, 0.625, 0.75, 0.9)] == [
        (3, 48), (2, 48), (2, 40), (1, 48), (1, 16),
    ]  # fmt: skip
