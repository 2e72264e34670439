"""Rewrites of an ONNX graph around slow paths of ONNX Runtime; the results stay within the float tolerance."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

MASK = -60.0
"""What masked attention scores get added: exp(-60) is below float32's resolution, yet a normal number."""

_LARGE = -1e3
_CARRIES_MASK = frozenset(
    {"Mul", "Where", "Unsqueeze", "Squeeze", "Reshape", "Expand", "Cast", "Add", "Slice", "Gather"}
)


def soften_masks(model: ir.Model) -> None:
    """Replace constants such as -1e4 or -inf in additive attention masks by -60.

    ONNX Runtime's exp does not reach zero: a softmax over -1e4 gives denormal numbers of about 1e-45, on which x86
    computes some fifty times slower (measured: 580 instead of 11 microseconds for one product of weights and values).
    """
    for node in list(model.graph):
        if node.op_type == "Softmax":
            scores = node.inputs[0]
            add = scores.producer() if scores is not None else None
            if add is not None and add.op_type == "Add":
                for index, operand in enumerate(add.inputs):
                    if operand is not None and _feeds_softmax_only(operand):
                        _soften(model.graph, add, index)


def keep_layer_norms_apart(model: ir.Model) -> None:
    """Write the sum before a layer norm as `Sum`, so that ONNX Runtime does not fuse the two.

    Its SkipLayerNormalization took 57 microseconds where Add and LayerNormalization take 14 (version 1.31.1, x86).
    """
    for node in model.graph:
        total = node.inputs[0].producer() if node.op_type == "LayerNormalization" and node.inputs[0] else None
        if total is not None and total.op_type == "Add" and len(total.outputs[0].uses()) == 1:
            total.op_type = "Sum"


def _soften(graph: ir.Graph, node: ir.Node, index: int) -> None:
    """Follow an operand to the constants it is made of and clamp those that mean "never"."""
    value = node.inputs[index]
    if value is None:
        return
    producer = value.producer()
    if producer is None:
        if value.const_value is not None:
            _clamp(graph, node, index, value.const_value.numpy())
    elif producer.op_type in _CARRIES_MASK and _feeds_softmax_only(value):
        for position in range(len(producer.inputs)):
            _soften(graph, producer, position)


def _clamp(
    graph: ir.Graph, node: ir.Node, index: int, array: np.ndarray[tuple[int, ...], np.dtype[np.float32]]
) -> None:
    if array.dtype != np.float32 or not (array <= _LARGE).any():
        return
    name = f"mask_{len(graph.initializers)}"
    softened = ir.tensor(np.where(array <= _LARGE, np.float32(MASK), array), name=name)
    value = ir.Value(
        name=name, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(array.shape), const_value=softened
    )
    graph.initializers[name] = value
    node.replace_input_with(index, value)


def _feeds_softmax_only(value: ir.Value) -> bool:
    """Tell whether a value is used for nothing but masks: every way onwards ends in an Add before a Softmax."""
    if value.is_graph_output() or not value.uses():
        return False
    for use in value.uses():
        node, output = use.node, use.node.outputs[0]
        ends = node.op_type == "Add" and [user.node.op_type for user in output.uses()] == ["Softmax"]
        if not ends and not (node.op_type in _CARRIES_MASK and _feeds_softmax_only(output)):
            return False
    return True
