"""Sorted values and places where numbers tie with what stands behind them, and a transform called by its schema."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgefuse.bundle import spec
from edgefuse.export.torch.forms import ALL, apply_forms
from edgefuse.registry import create
from edgefuse.runtime.backends.backend import SessionOptions
from edgefuse.stages.explicit import split

INFINITY = float("inf")
ROWS = {
    "large": [3e7, -3e7, 3e7, 1.0, -3e7, 5.0],
    "masked": [-INFINITY, 1.0, 2.0, -INFINITY, 0.0, -INFINITY],
    "all masked": [-INFINITY] * 6,
    "both": [INFINITY, 1.0, 2.0, -INFINITY, 0.0, INFINITY],
    "whole": [3.0, 1.0, 3.0, 2.0, 1.0, 3.0],
    "beyond float32's": [2.0**24 + 2, 2.0**24, 2.0**24 + 2, 2.0**24, 2.0**24, 2.0**25],
}


class Sorted(nn.Module):
    """Both ways, with places: argsort's own and those of a stable sort."""

    def forward(self, x: Tensor) -> Tensor:
        rising, falling = torch.sort(x, dim=1), torch.sort(x, dim=1, descending=True, stable=True)
        places = torch.argsort(x, dim=1, stable=True), falling.indices
        return torch.cat([rising.values, falling.values, *(place.to(torch.float32) for place in places)], 1)


def stage_of(module: nn.Module) -> nn.Module:
    values, embedding = spec.tensor("x", shape=(1, 6)), spec.EmbeddingOutput(size=24)
    module.spec = spec.ModelSpec(name="m", modalities=(values,), outputs=(embedding,))  # type: ignore[assignment]
    return module.eval()


@pytest.mark.parametrize("name", ROWS)
def test_values_are_right_and_places_lie_within_the_row(name: str) -> None:
    x = torch.tensor([ROWS[name]])
    form = apply_forms(torch.export.export(Sorted(), (torch.randn(1, 6),)), ALL).module()
    made, expected = form(x), Sorted()(x)
    torch.testing.assert_close(made[:, :12], expected[:, :12], rtol=0, atol=0)
    assert made[:, 12:].min() >= 0
    assert made[:, 12:].max() <= 5


@pytest.mark.parametrize("target", ["onnx", "tflite"])
def test_files_sort_equal_large_and_masked_numbers_as_torch_does(target: str) -> None:
    (stage,) = split(stage_of(Sorted()))
    made = create("targets", target)
    lowered = made.lower(stage)
    session = create("backends", made.backend).open(lowered.data, lowered.inputs, lowered.outputs, SessionOptions())
    for row in ROWS.values():
        x = torch.tensor([row])
        np.testing.assert_array_equal(session.run({"x_values": x.numpy()})["embedding"], stage.module(x).numpy())


@pytest.mark.parametrize("window", [None, torch.hann_window(40)])
def test_a_transform_that_is_told_whether_to_centre_has_its_form(window: Tensor | None) -> None:
    class Transform(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            call: Callable[..., Tensor] = torch.ops.aten.stft.center
            return call(x, 40, 16, None, window, False, "reflect", False, True, True).abs()

    x = torch.randn(1, 200)
    program = apply_forms(torch.export.export(Transform(), (x,)), ALL)
    assert not {node.target for node in program.graph.nodes} & {torch.ops.aten.stft.center, torch.ops.aten.stft.default}
    torch.testing.assert_close(program.module()(x), Transform()(x), rtol=1e-4, atol=1e-3)
