"""Sequences of any length in files of fixed shapes: they end by their length, or the target is refused."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgefuse.bundle import spec
from edgefuse.errors import ExportError
from edgefuse.export.onnx.target import OnnxTarget
from edgefuse.export.target import Target
from edgefuse.export.tflite.target import TfliteTarget
from edgefuse.registry import create
from edgefuse.runtime.backends.backend import SessionOptions
from edgefuse.stages.examples import example_feeds, run_torch
from edgefuse.stages.explicit import split
from edgefuse.stages.stage import TorchStage

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
