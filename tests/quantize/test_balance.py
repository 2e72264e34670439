"""Balancing: the function stays, the ranges move, and outliers stop costing the other channels their resolution."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgefuse.bundle.manifest import Scheme
from edgefuse.errors import QuantizeError
from edgefuse.export.examples import example_feeds, run_torch
from edgefuse.export.onnx import OnnxTarget
from edgefuse.export.stage import FeedSource, TorchStage
from edgefuse.quantize.balance import balance, links
from edgefuse.quantize.onnx import OnnxQuantizer
from edgefuse.runtime.backends.backend import SessionOptions
from edgefuse.runtime.backends.onnx import OnnxBackend

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


def test_convolutions_pass_factors_on_except_through_relu6_and_residuals(cnn_stage: TorchStage) -> None:
    stage = replace(cnn_stage, module=Convolutions().eval())
    (link,) = links(stage)
    assert link.giver == ("first.1.weight", "first.1.bias")
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
