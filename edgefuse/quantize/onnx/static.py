"""The scheme `static_wi8_ai8` for ONNX: QuantizeLinear and DequantizeLinear around the operators that compute in int8.

ONNX Runtime fuses DequantizeLinear, operator, QuantizeLinear into one int8 kernel (the QDQ format). A product whose
result is wanted in float has no QuantizeLinear behind it and is fused as well.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgefuse.bundle.scheme import Scheme
from edgefuse.quantize.calibration.ranges import Range
from edgefuse.quantize.onnx.graph import add_constant, become_output, constant, replace_value
from edgefuse.quantize.onnx.plan import Plan, absorbed_activation, weight_axis, weight_of
from edgefuse.quantize.onnx.weights import int8_with_room_for_bias

_SMALLEST_RANGE = 1e-6
_SAME_SCALE = frozenset({"MaxPool"})


def insert_qdq(model: ir.Model, plan: Plan, ranges: Mapping[str, Range], scheme: Scheme) -> None:
    """Quantize the values and weights of a plan.

    Args:
        model: the graph, changed in place.
        plan: made for this graph.
        ranges: by name, of every value of the plan.
        scheme: sign of the activations and granularity of the weights.
    """
    graph = model.graph
    limits = _absorb_activations(graph, plan, ranges)
    for node in plan.nodes:
        if node.op_type in _SAME_SCALE and node.inputs[0] is not None:
            limits[node.outputs[0]] = limits[node.inputs[0]]
    scales: dict[ir.Value, float] = {}
    for index, (value, limit) in enumerate(limits.items()):
        scale, zero = affine(limit, scheme.activation == "s8")
        parameters = (
            add_constant(graph, f"q{index}/scale", np.array(scale, np.float32)),
            add_constant(graph, f"q{index}/zero", np.array(zero, np.int8 if scheme.activation == "s8" else np.uint8)),
        )
        scales[_quantize_value(graph, value, parameters, plan, f"q{index}")] = scale
    for index, node in enumerate(plan.nodes):
        if weight_of(node) is not None and node.inputs[0] is not None:
            _quantize_weights(graph, node, scales[node.inputs[0]], scheme, f"w{index}")


def affine(limit: Range, signed: bool) -> tuple[float, int]:
    """Return scale and zero point that map a range to 0..255, or to -128..127, with zero exact."""
    scale = max(limit.high - limit.low, _SMALLEST_RANGE) / 255.0
    zero = round(-limit.low / scale)
    return scale, zero - 128 if signed else zero


def _absorb_activations(graph: ir.Graph, plan: Plan, ranges: Mapping[str, Range]) -> dict[ir.Value, Range]:
    """Remove each Relu or Clip whose bounds the quantized range keeps anyway; return the range of every value."""
    limits = {value: ranges[value.name or ""] for value in plan.values}
    for node in plan.nodes:
        activation = absorbed_activation(node)
        if activation is None or activation.outputs[0] not in limits:
            continue
        low, high = _bounds(activation)
        limit, result = limits.pop(activation.outputs[0]), node.outputs[0]
        limits[result] = Range(max(limit.low, min(low, 0.0)), min(limit.high, max(high, 0.0)))
        replace_value(graph, activation.outputs[0], result)
        graph.remove(activation, safe=True)
    return limits


def _bounds(activation: ir.Node) -> tuple[float, float]:
    if activation.op_type == "Relu":
        return 0.0, math.inf
    arrays = [constant(bound) for bound in activation.inputs[1:]] + [None, None]
    low, high = arrays[0], arrays[1]
    return (-math.inf if low is None else float(low), math.inf if high is None else float(high))


def _quantize_value(
    graph: ir.Graph, value: ir.Value, parameters: tuple[ir.Value, ir.Value], plan: Plan, name: str
) -> ir.Value:
    """Send a value through int8 on its way to the chosen nodes: to all its users, if a chosen node makes it.

    Returns:
        What the chosen nodes take now.
    """
    chosen = set(plan.nodes)
    producer = value.producer()
    takers = [(use.node, use.idx) for use in value.uses() if producer in chosen or use.node in chosen]
    result = through_int8(graph, value, parameters, takers, name)
    if value.is_graph_output() and producer in chosen:
        become_output(graph, value, result)
    return result


def through_int8(
    graph: ir.Graph,
    value: ir.Value,
    parameters: tuple[ir.Value, ir.Value],
    takers: Iterable[tuple[ir.Node, int]],
    name: str,
) -> ir.Value:
    """Put QuantizeLinear and DequantizeLinear, with a scale and a zero point, between a value and some of its users.

    Args:
        graph: is changed.
        value: to round.
        parameters: scale and zero point.
        takers: users, each with the index of its input.
        name: of the new values.

    Returns:
        What these users take now.
    """
    quantize = ir.node("QuantizeLinear", [value, *parameters], name=f"{name}/quantize")
    dequantize = ir.node("DequantizeLinear", [quantize.outputs[0], *parameters], name=f"{name}/dequantize")
    quantize.outputs[0].name = f"{name}/int8"
    result = dequantize.outputs[0]
    result.name, result.type, result.shape = f"{name}/float", value.type, value.shape
    producer = value.producer()
    if producer is not None:
        graph.insert_after(producer, [quantize, dequantize])
    else:
        graph.insert_before(next(iter(graph)), [quantize, dequantize])
    for node, index in takers:
        node.replace_input_with(index, result)
    return result


def _quantize_weights(graph: ir.Graph, node: ir.Node, input_scale: float, scheme: Scheme, name: str) -> None:
    """Replace a node's weights by int8 and its bias by int32 at the scale of the products."""
    weight = weight_of(node)
    if weight is None:
        return
    bias = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    axis = weight_axis(node) if scheme.granularity == "channel" else None
    integers, scale = int8_with_room_for_bias(weight, axis, bias, input_scale)
    take_from_integers(graph, node, 1, integers, scale, axis, f"{name}/weight")
    if bias is not None:
        bias_scale = (scale.astype(np.float64) * input_scale).astype(np.float32)
        rounded = np.rint(bias.astype(np.float64) / bias_scale.astype(np.float64)).astype(np.int32)
        take_from_integers(graph, node, 2, rounded, bias_scale, None if axis is None else 0, f"{name}/bias")


def take_from_integers(
    graph: ir.Graph,
    node: ir.Node,
    index: int,
    integers: npt.NDArray[np.integer[Any]],
    scale: npt.NDArray[np.float32],
    axis: int | None,
    name: str,
) -> None:
    """Let a node take a constant from integers behind a DequantizeLinear.

    Args:
        graph: is changed.
        node: that takes the constant.
        index: of its input.
        integers: the constant, rounded.
        scale: float32 [channels], or [] for one.
        axis: of the channels; None for one scale.
        name: of the new values.
    """
    inputs = [
        add_constant(graph, name, integers),
        add_constant(graph, f"{name}/scale", scale),
        add_constant(graph, f"{name}/zero", np.zeros(scale.shape, integers.dtype)),
    ]
    attributes = {} if axis is None else {"axis": axis}
    dequantize = ir.node("DequantizeLinear", inputs, attributes, name=f"{name}/dequantize")
    dequantize.outputs[0].name = f"{name}/float"
    dequantize.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    dequantize.outputs[0].shape = ir.Shape(integers.shape)
    graph.insert_before(node, dequantize)
    node.replace_input_with(index, dequantize.outputs[0])
