"""Rewritten graphs compute what the traced ones do, in the operators that LiteRT runs fast. No conversion here."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.fx import GraphModule

from edgefuse.export.tflite.rewrites import rewrite

aten = torch.ops.aten


def rewritten(module: nn.Module, *inputs: Tensor) -> GraphModule:
    """Trace and rewrite a module, and check that it computes the same."""
    module = module.eval()
    graph = rewrite(torch.export.export(module, inputs, strict=False))
    torch.testing.assert_close(graph(*inputs), module(*inputs), atol=2e-5, rtol=2e-5)
    return graph


def targets(graph: GraphModule) -> list[Any]:
    return [node.target for node in graph.graph.nodes if node.op == "call_function"]


def shaken(norm: nn.Module) -> nn.Module:
    """Give a norm the statistics and weights of a trained one."""
    for name, value in (*norm.named_parameters(), *norm.named_buffers()):
        if value.is_floating_point():
            value.data = torch.rand_like(value) + (0.5 if "var" in name or "weight" in name else -0.5)
    return norm


class Steps(nn.Module):
    """Two convolutions over time between features-last ends, as audio encoders have them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(5, 6, 3, bias=False), nn.Conv1d(6, 4, 3)
        self.norm = shaken(nn.BatchNorm1d(6))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm(self.first(nn.functional.pad(x.transpose(1, 2), (2, 0)))))
        z: Tensor = self.second(nn.functional.pad(y, (2, 0)))
        return z.transpose(1, 2)


def test_convolutions_over_time_run_channels_last_without_transposes() -> None:
    graph = rewritten(Steps(), torch.randn(1, 9, 5))
    assert aten.transpose.int not in targets(graph)
    assert aten.batch_norm.default not in targets(graph)
    assert targets(graph).count(aten.conv2d.default) == 2


@settings(max_examples=25, deadline=None)
@given(
    channels=st.sampled_from([1, 3, 4]),
    kernel=st.integers(1, 7),
    stride=st.integers(1, 4),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 2),
    bias=st.booleans(),
    length=st.integers(15, 24),
)
def test_any_convolution_over_time_keeps_its_function(
    channels: int, kernel: int, stride: int, padding: int, dilation: int, bias: bool, length: int
) -> None:
    conv = nn.Conv1d(channels, 4, kernel, stride, padding, dilation, bias=bias)
    graph = rewritten(conv, torch.randn(2, channels, length))
    assert aten.conv1d.default not in targets(graph)


def test_grouped_and_unbatched_convolutions_are_left_alone() -> None:
    assert aten.conv1d.default in targets(rewritten(nn.Conv1d(4, 4, 3, groups=2), torch.randn(1, 4, 9)))
    assert aten.conv1d.default in targets(rewritten(nn.Conv1d(4, 4, 3), torch.randn(4, 9)))


def test_windows_over_raw_samples_become_a_matrix_product() -> None:
    graph = rewritten(nn.Conv1d(1, 8, 10, stride=4, bias=False), torch.randn(1, 1, 41))
    assert aten.linear.default in targets(graph)
    assert aten.conv2d.default not in targets(graph)


def test_layer_norm_moves_its_weights_into_the_linear_layer_behind_it() -> None:
    graph = rewritten(nn.Sequential(shaken(nn.LayerNorm(8)), nn.Linear(8, 4)), torch.randn(1, 3, 8))
    assert targets(graph).count(aten.mul.Tensor) == 2
    assert aten.layer_norm.default not in targets(graph)


@pytest.mark.parametrize(
    "norm", [nn.LayerNorm(8), nn.LayerNorm(8, bias=False), nn.LayerNorm(8, elementwise_affine=False)]
)
def test_layer_norm_before_anything_else_keeps_its_weights(norm: nn.Module) -> None:
    rewritten(nn.Sequential(shaken(norm), nn.Tanh()), torch.randn(1, 3, 8))


class Products(nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.softmax(a @ b.transpose(-2, -1), dim=-1) @ b


def test_products_of_heads_run_in_three_dimensions() -> None:
    graph = rewritten(Products(), torch.randn(1, 2, 3, 4), torch.randn(1, 2, 3, 4))
    assert targets(graph).count(aten.bmm.default) == 2


class Swaps(nn.Module):
    """Transposes of different axes and ranks beside each other, and one that is used twice."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        t = x.transpose(1, 2)
        mixed = t + y.transpose(0, 1)
        return torch.cat(
            [mixed[:, :2], torch.relu(t)[:, :2], nn.functional.pad(t, (1, 1), "replicate")[:, :2, 1:-1]], 1
        )


def test_transposes_that_do_not_agree_stay() -> None:
    rewritten(Swaps(), torch.randn(1, 3, 4), torch.randn(3, 4))


def test_batch_norm_folds_into_images_too() -> None:
    graph = rewritten(nn.Sequential(nn.Conv2d(2, 4, 3), shaken(nn.BatchNorm2d(4)), nn.ReLU6()), torch.randn(1, 2, 8, 8))
    assert aten.batch_norm.default not in targets(graph)
