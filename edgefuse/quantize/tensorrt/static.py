"""The scheme `static_wi8_ai8` for TensorRT: int8 symmetric around zero, bounded by QuantizeLinear and DequantizeLinear.

Weights are int8 behind a DequantizeLinear, with one scale per output channel. Biases stay float: TensorRT's parser
takes no int32 there. Where the rest of the graph is float16, so are the scales: they have to be of the values' type.
They are rounded up to a float16 number before anything is quantized with them, so that the rounding costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgefuse.bundle.scheme import Scheme
from edgefuse.quantize.calibration.ranges import Range
from edgefuse.quantize.onnx.graph import add_constant
from edgefuse.quantize.onnx.plan import weight_axis, weight_of
from edgefuse.quantize.onnx.static import take_from_integers, through_int8
from edgefuse.quantize.onnx.weights import symmetric_scales, to_int8
from edgefuse.quantize.tensorrt.plan import Placement

_SMALLEST_SCALE = np.float32(2.0**-16)
"""A scale below it would have less than eight bits left in float16, whose smallest step is 2^-24."""


def insert_symmetric_qdq(model: ir.Model, placement: Placement, ranges: Mapping[str, Range], scheme: Scheme) -> None:
    """Quantize the activations and weights of a placement.

    Args:
        model: the float32 graph, changed in place.
        placement: made for this graph.
        ranges: by name, of every activation of the placement.
        scheme: granularity of the weights and type of the rest.
    """
    graph = model.graph
    for index, (value, takers) in enumerate(placement.uses.items()):
        limit = ranges[value.name or ""]
        scale = _fitting(np.asarray(max(-limit.low, limit.high) / 127.0, np.float32), scheme)
        name = f"q{index}"
        parameters = (
            add_constant(graph, f"{name}/scale", scale),
            add_constant(graph, f"{name}/zero", np.zeros((), np.int8)),
        )
        through_int8(graph, value, parameters, takers, name)
    for index, node in enumerate(placement.layers):
        weight = weight_of_quantized(node)
        axis = weight_axis(node) if scheme.granularity == "channel" else None
        scales = _fitting(symmetric_scales(weight, axis), scheme)
        take_from_integers(graph, node, 1, to_int8(weight, scales, axis), scales, axis, f"w{index}/weight")


def weight_of_quantized(node: ir.Node) -> npt.NDArray[Any]:
    """Return the weights of a layer that was placed."""
    weight = weight_of(node)
    if weight is None:
        raise ValueError(f"'{node.name}' has no constant weights")
    return weight


def _fitting(scale: npt.NDArray[np.float32], scheme: Scheme) -> npt.NDArray[np.float32]:
    """Return scales that are large enough and, if the rest of the graph is float16, are float16 numbers."""
    scale = np.maximum(scale, _SMALLEST_SCALE)
    if scheme.rest != "fp16":
        return scale
    half = scale.astype(np.float16)
    return np.where(half < scale, np.nextafter(half, np.float16(np.inf)), half).astype(np.float32)
