"""The scheme `dynamic_wi8_af32` for ONNX: int8 weights, activations quantized in every run.

Only matrix products by a constant and LSTMs are touched. ONNX Runtime has fused kernels for them
(DynamicQuantizeMatMul, DynamicQuantizeLSTM) and none for convolutions, which are several times slower this way.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgefuse.bundle.scheme import Scheme
from edgefuse.quantize.onnx.graph import add_constant, constant, replace_value
from edgefuse.quantize.onnx.ort.recurrent import DOMAIN, quantize_lstm
from edgefuse.quantize.onnx.plan import excluded, lstm_weights, weight_axis, weight_of
from edgefuse.quantize.onnx.weights import symmetric_int8


def quantize_dynamically(model: ir.Model, scheme: Scheme) -> int:
    """Replace matrix products by a constant, and LSTMs, and return how many were replaced."""
    nodes = [
        node
        for node in model.graph
        if node.op_type in ("MatMul", "Gemm") and weight_of(node) is not None and not excluded(node, scheme)
    ]
    activations: dict[str, tuple[ir.Value, ...]] = {}
    for node in nodes:
        _replace(model.graph, node, scheme, activations)
    lstms = [node for node in model.graph if lstm_weights(node) is not None and not excluded(node, scheme)]
    for node in lstms:
        quantize_lstm(model.graph, node, per_channel=scheme.granularity == "channel")
        model.opset_imports.setdefault(DOMAIN, 1)
    return len(nodes) + len(lstms)


def _replace(graph: ir.Graph, node: ir.Node, scheme: Scheme, activations: dict[str, tuple[ir.Value, ...]]) -> None:
    weight, data, name = weight_of(node), node.inputs[0], node.name or ""
    if weight is None or data is None:
        return
    if weight_axis(node) == 0:
        weight = np.ascontiguousarray(weight.T)
    integers, scale = symmetric_int8(weight, 1 if scheme.granularity == "channel" else None)
    if data.name not in activations:
        activations[data.name or ""] = _emit(graph, node, "DynamicQuantizeLinear", [data], f"{data.name}/dynamic", 3)
    quantized, data_scale, zero = activations[data.name or ""]
    columns = add_constant(graph, f"{name}/weight", integers)
    weight_scale = add_constant(graph, f"{name}/scale", scale)
    (product,) = _emit(graph, node, "MatMulInteger", [quantized, columns, zero], f"{name}/integer")
    (cast,) = _emit(graph, node, "Cast", [product], f"{name}/cast", to=ir.DataType.FLOAT)
    (both,) = _emit(graph, node, "Mul", [data_scale, weight_scale], f"{name}/scales")
    (result,) = _emit(graph, node, "Mul", [cast, both], f"{name}/scaled")
    bias = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    if bias is not None:
        (result,) = _emit(graph, node, "Add", [result, add_constant(graph, f"{name}/bias", bias)], f"{name}/biased")
    replace_value(graph, node.outputs[0], result)
    graph.remove(node, safe=True)


def _emit(
    graph: ir.Graph,
    anchor: ir.Node,
    operator: str,
    inputs: list[ir.Value],
    name: str,
    outputs: int = 1,
    **attributes: int,
) -> tuple[ir.Value, ...]:
    """Insert a node before an anchor and return its outputs."""
    node = ir.node(operator, inputs, attributes, num_outputs=outputs, name=name)
    for index, value in enumerate(node.outputs):
        value.name = f"{name}:{index}"
    graph.insert_before(anchor, node)
    return tuple(node.outputs)
