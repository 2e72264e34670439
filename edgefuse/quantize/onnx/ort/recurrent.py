"""Quantize LSTMs of an ONNX graph: int8 weights, states and inputs quantized in every step.

ONNX Runtime has a kernel for LSTM only (DynamicQuantizeLSTM); GRU and RNN stay float.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgefuse.quantize.onnx.graph import add_constant, replace_value
from edgefuse.quantize.onnx.plan import lstm_weights
from edgefuse.quantize.onnx.weights import symmetric_int8

DOMAIN = "com.microsoft"
"""Of the operator DynamicQuantizeLSTM, version 1."""

_INPUTS = 8  # of the operator LSTM


def quantize_lstm(graph: ir.Graph, node: ir.Node, *, per_channel: bool) -> None:
    """Put a DynamicQuantizeLSTM in the place of an LSTM whose weights `lstm_weights` gives.

    Args:
        graph: is changed.
        node: the LSTM.
        per_channel: whether each row of the weights has a scale of its own.
    """
    integers, parameters = [], []
    for name, weight in zip(("input", "state"), lstm_weights(node) or (), strict=False):
        rounded = [symmetric_int8(one.T, 1 if per_channel else None) for one in weight]
        scale = np.stack([scale for _, scale in rounded])
        integers.append(add_constant(graph, f"{node.name}/{name}_weight", np.stack([value for value, _ in rounded])))
        parameters.append(add_constant(graph, f"{node.name}/{name}_scale", scale))
        parameters.append(add_constant(graph, f"{node.name}/{name}_zero", np.zeros(scale.shape, np.int8)))
    others = [*node.inputs[3:], *[None] * (_INPUTS - len(node.inputs))]
    attributes = [value for key, value in node.attributes.items() if key != "layout"]
    inputs = [node.inputs[0], *integers, *others, *parameters]
    result = ir.Node(DOMAIN, "DynamicQuantizeLSTM", inputs, attributes, num_outputs=len(node.outputs), name=node.name)
    graph.insert_before(node, result)
    for index, (old, new) in enumerate(zip(node.outputs, result.outputs, strict=True)):
        new.name = f"{node.name}/dynamic:{index}"
        replace_value(graph, old, new)
    graph.remove(node, safe=True)
