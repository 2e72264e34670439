"""Calibration runs on what a graph gives, however small, large or not a number."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import onnx.parser
import onnx_ir as ir
import pytest

from edgefuse.bundle.manifest import Binding
from edgefuse.errors import QuantizeError
from edgefuse.quantize.onnx.calibration import channel_means, observe
from edgefuse.stages.stage import Feeds

INPUTS = (Binding(port="x", tensor="x", dtype="float32", shape=(1, 2)),)


def doubling() -> ir.Model:
    text = '<ir_version: 10, opset_import: ["" : 20]> g (float[1, 2] x) => (float[1, 2] y) { y = Add(x, x) }'
    model: ir.Model = ir.from_proto(onnx.parser.parse_model(text))
    return model


def feeds(*samples: list[float]) -> Callable[[], Iterator[Feeds]]:
    return lambda: iter([{"x": np.array([sample], np.float32)} for sample in samples])


def test_means_are_those_of_each_channel() -> None:
    found = channel_means(doubling(), {"y": 1}, INPUTS, feeds([1.0, -2.0], [3.0, 0.0]))
    assert found["y"].tolist() == [4.0, -2.0]


@pytest.mark.parametrize("bad", [np.nan, np.inf, 3e38])
def test_what_is_not_finite_is_refused_by_name(bad: float) -> None:
    source = feeds([1.0, 2.0], [bad, 0.0])
    for gather in (
        lambda: channel_means(doubling(), {"y": 1}, INPUTS, source),
        lambda: observe(doubling(), ["y"], INPUTS, source),
    ):
        with pytest.raises(QuantizeError, match="calibration found numbers that are not finite in 'y'"):
            gather()


def test_subnormal_activations_are_zeros() -> None:
    (seen,) = observe(doubling(), ["y"], INPUTS, feeds([1e-45, -1e-40], [2048.0, 0.0])).values()
    assert (seen.extremes().low, seen.extremes().high) == (0.0, 4096.0)
