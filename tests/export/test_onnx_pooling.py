"""Means and weighted sums become pools and products; other reductions stay reductions."""

from __future__ import annotations

from collections.abc import Callable

import onnx
import pytest
import torch
from torch import Tensor, nn

from edgefuse.bundle import spec
from edgefuse.bundle.manifest import Tolerance
from edgefuse.export.onnx.target import OnnxTarget
from edgefuse.registry import create
from edgefuse.runtime.backends.backend import SessionOptions
from edgefuse.stages.agreement import verify
from edgefuse.stages.examples import example_feeds
from edgefuse.stages.explicit import split

IMAGE, STEPS, BOUNDED = (1, 3, 4, 5), (1, 6, 8), (1, spec.Bounded(max=6), 8)


class Reduces(nn.Module):
    def __init__(self, shape: tuple[spec.Dim, ...], width: int, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.spec = spec.ModelSpec(
            name="reduces", modalities=(spec.tensor("x", shape=shape),), outputs=(spec.EmbeddingOutput(size=width),)
        )
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def weighted(x: Tensor) -> Tensor:
    weights = torch.sigmoid(x[:, :, 0])
    return (x * weights.unsqueeze(2)).sum(dim=1)


def weighted_by_feature(x: Tensor) -> Tensor:
    return (x * torch.sigmoid(x[:, 0]).unsqueeze(1)).sum(dim=1)


@pytest.mark.parametrize(
    ("shape", "width", "function", "operators"),
    [
        (IMAGE, 3, lambda x: x.mean(dim=(2, 3)), ["GlobalAveragePool", "Flatten"]),
        (IMAGE, 3, lambda x: x.mean(dim=(-1, -2)), ["GlobalAveragePool", "Flatten"]),
        (IMAGE, 5, lambda x: x.mean(dim=(1, 2)), ["ReduceMean"]),
        (STEPS, 8, lambda x: x.mean(dim=1), ["Reshape", "MatMul"]),
        (STEPS, 6, lambda x: x.mean(dim=2), ["ReduceMean"]),
        (BOUNDED, 8, lambda x: x.mean(dim=1), ["ReduceMean"]),
        (STEPS, 8, weighted, ["Gather", "Sigmoid", "Reshape", "MatMul"]),
        (BOUNDED, 8, weighted, ["Gather", "Sigmoid", "Unsqueeze", "Mul", "ReduceSum"]),
        (STEPS, 8, weighted_by_feature, ["Gather", "Sigmoid", "Unsqueeze", "Mul", "ReduceSum"]),
    ],
)
def test_reductions_that_have_a_faster_form_take_it(
    shape: tuple[spec.Dim, ...], width: int, function: Callable[[Tensor], Tensor], operators: list[str]
) -> None:
    stage = split(Reduces(shape, width, function).eval())[0]
    lowered = OnnxTarget().lower(stage)
    assert [node.op_type for node in onnx.load_from_string(lowered.data).graph.node] == operators
    session = create("backends", "onnx").open(lowered.data, lowered.inputs, lowered.outputs, SessionOptions())
    for feeds in example_feeds(stage, count=3, seed=1):
        assert verify(stage, session, feeds, Tolerance(absolute=1e-6, relative=1e-6)).ok
