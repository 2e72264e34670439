"""Balancing: the function stays, the ranges move, and outliers stop costing the other channels their resolution."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgefuse.bundle.scheme import Scheme
from edgefuse.errors import QuantizeError
from edgefuse.export.onnx.target import OnnxTarget
from edgefuse.quantize.onnx.quantizer import OnnxQuantizer
from edgefuse.quantize.torch.balance import balance, links
from edgefuse.runtime.backends.backend import SessionOptions
from edgefuse.runtime.backends.onnx.backend import OnnxBackend
from edgefuse.stages.examples import example_feeds
from edgefuse.stages.running import run_torch
from edgefuse.stages.stage import FeedSource, TorchStage

STATIC = Scheme(name="static_wi8_ai8", activation="u8")


def feeds(stage: TorchStage) -> FeedSource:
    return lambda: example_feeds(stage, count=8)


def answers(stage: TorchStage) -> np.ndarray:
    port = stage.spec.outputs[0].tensor.name
    return np.concatenate([run_torch(stage, feed)[port] for feed in feeds(stage)()])


def snr_db(reference: TorchStage, stage: TorchStage) -> float:
    """Return the signal-to-noise ratio of a stage in int8 against another in torch."""
    file = OnnxQuantizer().apply(OnnxTarget().lower(stage), STATIC, feeds(stage))
    session = OnnxBackend().open(file.data, file.inputs, file.outputs, SessionOptions())
    port = stage.spec.outputs[0].tensor.name
    expected = answers(reference)
    noise = np.concatenate([session.run(feed)[port] for feed in feeds(stage)()]) - expected
    return float(10 * np.log10(np.square(expected).sum() / np.square(noise).sum()))


@pytest.fixture
def outliers(layer_stage: TorchStage) -> TorchStage:
    """A transformer layer whose layer norms magnify three channels fortyfold, as language models do."""
    torch.manual_seed(1)
    stage = replace(layer_stage, module=type(layer_stage.module)().eval())
    for norm in (module for module in stage.module.modules() if isinstance(module, nn.LayerNorm)):
        norm.weight.data[[3, 17, 40]] *= 40.0
    return stage


def test_a_balanced_stage_computes_the_same(outliers: TorchStage, cnn_stage: TorchStage) -> None:
    before = answers(outliers)
    after = answers(balance(outliers, feeds(outliers)))
    assert np.abs(after - before).max() < 1e-4 * np.abs(before).max()
    assert np.array_equal(answers(outliers), before)


def test_outliers_cost_less_after_balancing(outliers: TorchStage) -> None:
    assert snr_db(outliers, balance(outliers, feeds(outliers))) > snr_db(outliers, outliers) + 3.0


def test_factors_move_from_norms_into_linear_layers_and_through_a_relu(layer_stage: TorchStage) -> None:
    assert [[name.removeprefix("block.") for name, _ in link.takers] for link in links(layer_stage)] == [
        ["attention.qkv.weight"],
        ["feed_forward.0.weight"],
        ["feed_forward.2.weight"],
    ]


class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.ZeroPad2d(1))
        self.depthwise = nn.Sequential(nn.Conv2d(8, 8, 3, groups=8), nn.ReLU6())
        self.last = nn.Conv2d(8, 64, 1)
        self.residual = nn.Conv2d(64, 64, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.last(self.depthwise(self.first(x)))
        y: Tensor = (x + self.residual(x)).mean(dim=(2, 3))
        return y


class Residual(nn.Module):
    """A stream of eight channels, two of them wide: three layers give it, three take it, `filter` does both."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.widen = nn.Conv2d(8, 32, 1)
        self.narrow = nn.Conv2d(32, 8, 1)
        self.filter = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.last = nn.Conv2d(8, 64, 1)
        wide = torch.ones(8)
        wide[[1, 6]] = 30.0
        assert self.narrow.bias is not None
        for parameter in (self.norm.weight, self.norm.bias, self.narrow.bias):
            parameter.data *= wide
        self.narrow.weight.data *= wide.reshape(8, 1, 1, 1)
        for taker in (self.widen, self.last):
            taker.weight.data /= wide.reshape(8, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x))
        x = x + self.narrow(nn.functional.relu6(self.widen(x)))
        x = torch.relu(x)
        x = x + self.filter(x)
        y: Tensor = self.last(x).mean(dim=(2, 3))
        return y


def test_a_residual_stream_has_one_factor_per_channel(cnn_stage: TorchStage) -> None:
    torch.manual_seed(0)
    stage = replace(cnn_stage, module=Residual().eval())
    (link,) = links(stage)
    assert link.givers == (
        *("norm.weight", "norm.bias", "narrow.weight", "narrow.bias"),
        *("filter.weight", "filter.bias"),
    )
    assert link.takers == (("widen.weight", 1), ("filter.weight", 0), ("last.weight", 1))
    before = answers(stage)
    balanced = balance(stage, feeds(stage))
    assert np.abs(answers(balanced) - before).max() < 1e-4 * np.abs(before).max()
    assert snr_db(stage, balanced) > snr_db(stage, stage) + 6.0


class Sums(nn.Module):
    """Two layers, a sum with what `how` makes of x and the output of the first, and a layer that takes it."""

    def __init__(self, how: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.last = nn.Conv2d(8, 64, 1)
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(self.how(x, self.first(x))).mean(dim=(2, 3))
        return y


@pytest.mark.parametrize(
    ("how", "linked"),
    [
        (lambda x, y: y + y, True),
        (lambda x, y: torch.add(y, y.relu(), alpha=-2), True),  # linear, whatever the weights of the sum
        (lambda x, y: y + 1.0, False),
        (lambda x, y: y + x.mean(dim=1, keepdim=True), False),  # broadcast
        (lambda x, y: y + torch.cat([x, x, x[:, :2]], dim=1), False),  # made by no layer
        (lambda x, y: y + nn.functional.relu6(y), False),
        (lambda x, y: nn.functional.pad(y, (0, 0, 0, 0, 1, -1)), False),  # another channel each
        (lambda x, y: nn.functional.pad(y, (1, 1)), True),
    ],
)
def test_a_stream_is_as_wide_as_its_sums(
    cnn_stage: TorchStage, how: Callable[[Tensor, Tensor], Tensor], linked: bool
) -> None:
    assert bool(links(replace(cnn_stage, module=Sums(how).eval()))) == linked


class Crossed(nn.Module):
    """Linear layers along the last axis, and a convolution along the one before it, which is as long."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(32, 32)
        self.last = nn.Conv1d(32, 64, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(self.first(x[:, 0])).mean(dim=2)
        return y


def test_channels_stay_on_their_axis(cnn_stage: TorchStage) -> None:
    assert not links(replace(cnn_stage, module=Crossed().eval()))


def test_convolutions_pass_factors_on_except_through_relu6_and_means(cnn_stage: TorchStage) -> None:
    stage = replace(cnn_stage, module=Convolutions().eval())
    (link,) = links(stage)
    assert link.givers == ("first.1.weight", "first.1.bias")
    assert link.takers == (("depthwise.0.weight", 0),)
    before = answers(stage)
    assert np.abs(answers(balance(stage, feeds(stage))) - before).max() < 1e-4 * np.abs(before).max()


def test_shared_weights_are_left_alone(layer_stage: TorchStage) -> None:
    stage = replace(layer_stage, module=type(layer_stage.module)().eval())
    stage.module.block.norm2.weight = stage.module.block.norm1.weight  # type: ignore[union-attr]
    assert [link.takers[0][0] for link in links(stage)] == ["block.feed_forward.2.weight"]


def test_balancing_is_deterministic(outliers: TorchStage) -> None:
    first, second = (balance(outliers, feeds(outliers)).module.state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_what_cannot_be_balanced_is_refused(cnn_stage: TorchStage, outliers: TorchStage) -> None:
    with pytest.raises(QuantizeError, match="the stage 'model' has nothing to balance"):
        balance(replace(cnn_stage, module=nn.Conv2d(3, 8, 3)), feeds(cnn_stage))
    with pytest.raises(QuantizeError, match="balancing got no samples: expected at least one"):
        balance(outliers, lambda: iter(()))
