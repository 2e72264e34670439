"""Sequences of any length in files of fixed shapes: they end by their length, or the target is refused."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgefuse.bundle import spec
from edgefuse.errors import ExportError
from edgefuse.export.onnx.target import OnnxTarget
from edgefuse.export.target import Target
from edgefuse.export.tflite.by_length import ended_by_length
from edgefuse.export.tflite.target import TfliteTarget
from edgefuse.registry import create
from edgefuse.runtime.backends.backend import SessionOptions
from edgefuse.stages.examples import example_feeds
from edgefuse.stages.explicit import split
from edgefuse.stages.running import run_torch
from edgefuse.stages.stage import TorchStage
from edgefuse.stages.values import observed, with_values

STEPS = spec.Bounded(max=20)


class State(nn.Module):
    """The last state of a recurrent layer."""

    def __init__(self, layer: Callable[..., nn.Module], **options: bool | int) -> None:
        super().__init__()
        self.layer = layer(4, 6, batch_first=True, **options)

    def forward(self, x: Tensor, length: Tensor) -> Tensor:
        _, states = self.layer(x)
        hidden = states[0] if isinstance(states, tuple) else states
        return torch.flatten(hidden.transpose(0, 1), 1)


class MeanState(nn.Module):
    """The mean of the valid steps of a recurrent layer, under a mask as long as its answers."""

    def __init__(self, layer: Callable[..., nn.Module], **options: bool | int) -> None:
        super().__init__()
        self.layer = layer(4, 6, **options)

    def forward(self, x: Tensor, length: Tensor) -> Tensor:
        y: Tensor = self.layer(x.transpose(0, 1))[0].transpose(0, 1)
        valid = torch.arange(y.shape[1]).unsqueeze(0) < length.unsqueeze(1)
        return torch.sum(y * valid.unsqueeze(2), 1) / length.unsqueeze(1)


class Attended(nn.Module):
    """Attention and a mean over all steps, without a look at the length."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: Tensor, length: Tensor) -> Tensor:
        y: Tensor = self.attention(x, x, x)[0].mean(1)
        return y


class Frozen(nn.Module):
    def forward(self, x: Tensor, length: Tensor) -> Tensor:
        pieces = [x[:, step] for step in range(x.shape[1])]
        return torch.stack(pieces, 1).mean(1)


def stage_of(encoder: nn.Module, width: int) -> TorchStage:
    sequence = spec.tensor("s", shape=(1, STEPS, 4), length=True)
    encoder.spec = spec.ModelSpec(name="m", modalities=(sequence,), outputs=(spec.EmbeddingOutput(size=width),))  # type: ignore[assignment]
    return split(encoder.eval())[0]


def answers_alike(target: Target, stage: TorchStage) -> bool:
    lowered = target.lower(stage)
    session = create("backends", target.backend).open(lowered.data, lowered.inputs, lowered.outputs, SessionOptions())
    feeds = list(example_feeds(stage, count=6, seed=3))
    assert len({one["s_values"].shape for one in feeds}) == 3
    pairs = [(run_torch(stage, one)["embedding"], session.run(one)["embedding"]) for one in feeds]
    return all(np.abs(found - expected).max() < 1e-4 for expected, found in pairs)


@pytest.mark.parametrize(
    ("layer", "options", "width"),
    [(nn.GRU, {}, 6), (nn.GRU, {"bidirectional": True, "num_layers": 2}, 24), (nn.LSTM, {"bidirectional": True}, 12)],
)
def test_the_last_valid_state_is_taken_where_files_pad(
    layer: Callable[..., nn.Module], options: dict[str, bool | int], width: int
) -> None:
    torch.manual_seed(0)
    assert answers_alike(TfliteTarget(), stage_of(State(layer, **options), width))


def test_the_steps_of_a_recurrent_layer_stay_open_in_onnx() -> None:
    torch.manual_seed(0)
    assert answers_alike(OnnxTarget(), stage_of(State(nn.GRU), 6))


@pytest.mark.parametrize(("layer", "both"), [(nn.GRU, True), (nn.LSTM, False)])
def test_so_do_masks_over_its_steps(layer: Callable[..., nn.Module], both: bool) -> None:
    torch.manual_seed(0)
    assert answers_alike(OnnxTarget(), stage_of(MeanState(layer, bidirectional=both), 12 if both else 6))


def test_plain_recurrent_layers_are_unrolled_in_onnx_and_work_at_one_size() -> None:
    torch.manual_seed(0)
    with pytest.raises(
        ExportError, match=r"'model' works at one size alone, fixed at 'test_by_length\.py:\d+: .*layer"
    ):
        OnnxTarget().lower(stage_of(MeanState(nn.RNN), 6))


def test_a_stage_that_depends_on_padding_is_refused_where_files_pad_and_lowered_where_they_do_not() -> None:
    torch.manual_seed(0)
    stage = stage_of(Attended(), 4)
    assert answers_alike(OnnxTarget(), stage)
    with pytest.raises(
        ExportError,
        match=r"the stage 'model' depends on padding, and TFLite files have fixed shapes: got its output 'embedding' "
        r"is [\d.]+ % off where \d+ steps are padded to 20.* Fix: mask what lies behind 'length'",
    ):
        TfliteTarget().lower(stage)


def test_a_size_that_the_model_fixes_is_named_with_its_line() -> None:
    with pytest.raises(
        ExportError,
        match=r"the stage 'model' works at one size alone, fixed at 'test_by_length\.py:\d+: .*range\(x\.shape\[1\]\).*"
        r"expected any size that the spec allows",
    ):
        OnnxTarget().lower(stage_of(Frozen(), 4))


class Pooled(nn.Module):
    """A pool over all steps, as text CNNs write it: its kernel is as large as its input."""

    def __init__(self, pool: Callable[..., Tensor]) -> None:
        super().__init__()
        self.first, self.pool = nn.Linear(4, 6), pool

    def forward(self, x: Tensor, length: Tensor) -> Tensor:
        y = self.first(x).transpose(1, 2)
        return self.pool(y, y.size(2)).squeeze(2)


class PooledPlane(nn.Module):
    """The same over two axes."""

    def forward(self, x: Tensor, length: Tensor) -> Tensor:
        y = torch.stack([x, x * x, x.abs()], 1)
        return nn.functional.avg_pool2d(y, kernel_size=y.size()[2:]).flatten(1)


class Products(nn.Module):
    """A product of three tensors, of which one order is the best."""

    def forward(self, x: Tensor, length: Tensor) -> Tensor:
        return torch.einsum("btc,btd,bte->bcde", x, x, x).flatten(1)


@pytest.mark.parametrize(
    ("module", "width"),
    [
        (Pooled(nn.functional.max_pool1d), 6),
        (Pooled(nn.functional.avg_pool1d), 6),
        (PooledPlane(), 3),
        (Products(), 64),
    ],
)
def test_sizes_that_torch_makes_numbers_of_stay_open(module: nn.Module, width: int) -> None:
    torch.manual_seed(0)
    assert answers_alike(OnnxTarget(), stage_of(module, width))


class Deciding(nn.Module):
    """A mean over steps, with a branch on how many there are; what it asks and does then is its subclass's."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 6)


class Long(Deciding):
    def forward(self, x: Tensor, length: Tensor) -> Tensor:
        y: Tensor = self.first(x)
        if y.shape[1] > 9:
            y = y[:, ::2]
        return y.mean(1)


class Few(Deciding):
    def forward(self, x: Tensor, length: Tensor) -> Tensor:
        y: Tensor = self.first(x)
        if y.shape[1] < 4:
            y = nn.functional.pad(y, (0, 0, 0, 4 - y.shape[1]))
        return y.mean(1)


class Odd(Deciding):
    def forward(self, x: Tensor, length: Tensor) -> Tensor:
        y: Tensor = self.first(x)
        if y.shape[1] % 2:
            y = nn.functional.pad(y, (0, 0, 0, 1))
        return y.reshape(y.shape[0], y.shape[1] // 2, 2, 6).amax(2).mean(1)


class Cut(Deciding):
    """Its branch is never taken, and what it asserts is always so."""

    def forward(self, x: Tensor, length: Tensor) -> Tensor:
        y: Tensor = self.first(x)
        assert y.shape[1] <= 20
        if y.shape[1] > 40:
            y = y[:, :40]
        return y[:, : max(2, y.shape[1] // 2)].mean(1)


@pytest.mark.parametrize(
    ("module", "line", "said"),
    [
        (Long, "shape[1] > 9", r"s_values \[1, \d, 4\]"),
        (Few, "shape[1] < 4", r"s_values \[1, 3, 4\]"),
        (Odd, "shape[1] % 2", "cannot be run"),
    ],
)
def test_a_branch_on_a_size_is_named_with_its_line_at_whatever_sizes_it_decides(
    module: Callable[..., nn.Module], line: str, said: str
) -> None:
    torch.manual_seed(0)
    with pytest.raises(
        ExportError,
        match=r"the stage 'model' decides on a size that its spec leaves open, at 'test_by_length\.py:\d+: if y\."
        + re.escape(line)
        + rf":', and a file can only hold .*{said}",
    ):
        OnnxTarget().lower(stage_of(module(), 6))


class Marked(Deciding):
    """The sum of the valid steps, and a mark where their number is odd: at even sizes, padding changes nothing."""

    def forward(self, x: Tensor, length: Tensor) -> Tensor:
        valid = (torch.arange(x.shape[1]) < length.unsqueeze(1)).unsqueeze(2)
        y: Tensor = (self.first(x) * valid).sum(1)
        if x.shape[1] % 2:
            y = y + 1
        return y


class Short(Marked):
    """The same, with a mark where there are few steps."""

    def forward(self, x: Tensor, length: Tensor) -> Tensor:
        valid = (torch.arange(x.shape[1]) < length.unsqueeze(1)).unsqueeze(2)
        y: Tensor = (self.first(x) * valid).sum(1)
        if x.shape[1] < 12:
            y = y + 1
        return y


@pytest.mark.parametrize(("module", "line"), [(Marked, "shape[1] % 2"), (Short, "shape[1] < 12")])
def test_a_branch_on_a_size_is_named_where_files_pad_too(module: Callable[..., nn.Module], line: str) -> None:
    torch.manual_seed(0)
    with pytest.raises(
        ExportError,
        match=r"the stage 'model' decides on a size that its spec leaves open, at 'test_by_length\.py:\d+: if x\."
        + re.escape(line)
        + r":', and a file can only hold .* % off where \d+ steps are padded to 20",
    ):
        TfliteTarget().lower(stage_of(module(), 6))


def test_padding_that_matters_at_every_size_is_no_branchs_fault() -> None:
    torch.manual_seed(0)
    with pytest.raises(ExportError, match="the stage 'model' depends on padding"):
        TfliteTarget().lower(stage_of(Few(), 6))


def test_a_branch_that_no_size_takes_is_in_nobodys_way() -> None:
    torch.manual_seed(0)
    stage = stage_of(Cut(), 6)
    assert answers_alike(OnnxTarget(), stage)


def test_a_branch_below_what_inputs_were_seen_to_have_is_not_asked() -> None:
    torch.manual_seed(0)
    sequences = [{"s.values": np.zeros((1, steps, 4), np.float32) + steps} for steps in (5, 12)]
    (stage,) = with_values([stage_of(Few(), 6)], observed(sequences))
    assert OnnxTarget().lower(stage).data


def test_a_module_that_cannot_do_with_layers_that_end_earlier_is_refused_as_before() -> None:
    class Checked(State):
        def forward(self, x: Tensor, length: Tensor) -> Tensor:
            y, state = self.layer(x)
            if not torch.equal(y[:, -1], state[-1]):
                raise ValueError("the state is not that of the last step")
            return torch.flatten(state.transpose(0, 1), 1)

    torch.manual_seed(0)
    stage = stage_of(Checked(nn.GRU), 6)
    assert ended_by_length(stage) is None
    assert TfliteTarget().mended(stage) is stage
    with pytest.raises(ExportError, match="the stage 'model' depends on padding"):
        TfliteTarget().lower(stage)
