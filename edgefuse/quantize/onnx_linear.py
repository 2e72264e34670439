"""Write linear layers over sequences as two-dimensional Gemm with its bias, the form whose int8 kernel adds the bias.

As MatMul and Add, ONNX Runtime rounds to int8 between the two, and runs two kernels.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from edgefuse.quantize.onnx_graph import add_constant, become_output, constant, only_use, replace_value

_ELEMENTWISE = frozenset({"Relu", "Clip", "Sigmoid", "Tanh", "Gelu"})


def matmuls_to_gemm(model: ir.Model) -> None:
    """Turn MatMul by a constant, with the Add of a constant bias if there is one, into Reshape, Gemm, Reshape.

    Shapes have to be known up to one dimension. An element-wise activation moves in front of the second Reshape, so
    that the next layer continues in two dimensions.
    """
    for node in list(model.graph):
        if node.op_type == "MatMul" and node.graph is not None:
            _convert(model.graph, node)
    for node in list(model.graph):
        if node.op_type in _ELEMENTWISE:
            _move_before_reshape(model.graph, node)
    for node in list(model.graph):
        if node.op_type == "Reshape" and node.graph is not None:
            _merge_reshapes(model.graph, node)


def _convert(graph: ir.Graph, node: ir.Node) -> None:
    data, weight = node.inputs
    matrix = constant(weight)
    shape = _static_shape(node.outputs[0])
    if data is None or weight is None or matrix is None or matrix.ndim != 2:
        return
    if shape is None or data.shape is None or len(data.shape) < 2:
        return
    name = node.name or ""
    last, bias = _bias_of(node, shape[-1])
    inputs = [_reshape(graph, node, data, (-1, matrix.shape[0]), f"{name}/rows"), weight]
    gemm = ir.node("Gemm", [*inputs, bias] if bias is not None else inputs, name=name)
    gemm.outputs[0].name = f"{name}/columns"
    gemm.outputs[0].type = data.type
    graph.insert_before(node, gemm)
    result = last.outputs[0]
    restored = _reshape(graph, node, gemm.outputs[0], shape, f"{name}/restored")
    replace_value(graph, result, restored)
    graph.remove([node] if last is node else [last, node], safe=True)


def _bias_of(node: ir.Node, width: int) -> tuple[ir.Node, ir.Value | None]:
    """Return the node that ends the layer and its bias: a following Add of a constant [width], if there is one."""
    use = only_use(node.outputs[0])
    if use is not None and use[0].op_type == "Add":
        add, index = use
        other = add.inputs[1 - index]
        if other is not None and other.const_value is not None and tuple(other.const_value.shape) == (width,):
            return add, other
    return node, None


def _move_before_reshape(graph: ir.Graph, node: ir.Node) -> None:
    data = node.inputs[0]
    reshape = data.producer() if data is not None else None
    if data is None or reshape is None or reshape.op_type != "Reshape" or len(data.uses()) != 1:
        return
    source, result = reshape.inputs[0], node.outputs[0]
    producer = source.producer() if source is not None else None
    if source is None or producer is None or producer.op_type != "Gemm" or data.is_graph_output():
        return
    node.replace_input_with(0, source)
    graph.remove(reshape)
    moved = ir.node("Reshape", [result, reshape.inputs[1]], name=reshape.name)
    moved.outputs[0].name, moved.outputs[0].type, moved.outputs[0].shape = data.name, data.type, data.shape
    graph.insert_after(node, moved)
    if result.is_graph_output():
        become_output(graph, result, moved.outputs[0])
    result.shape = None
    for use in list(result.uses()):
        if use.node is not moved:
            use.node.replace_input_with(use.idx, moved.outputs[0])


def _merge_reshapes(graph: ir.Graph, node: ir.Node) -> None:
    """Let a Reshape of a Reshape start from the first one's input; drop one that changes nothing."""
    data, shape = node.inputs[0], node.inputs[1]
    before = data.producer() if data is not None else None
    if before is None or before.op_type != "Reshape" or shape is None or shape.const_value is None:
        return
    if (shape.const_value.numpy() == 0).any():
        return
    origin = before.inputs[0]
    node.replace_input_with(0, origin)
    producer = origin.producer() if origin is not None else None
    rows = list(shape.const_value.numpy())
    flat = producer is not None and _stays_flat(producer)
    if origin is not None and flat and len(rows) == 2 and not node.outputs[0].is_graph_output():
        node.outputs[0].replace_all_uses_with(origin)
        graph.remove(node, safe=True)
    if data is not None and not data.uses() and not data.is_graph_output():
        graph.remove(before, safe=True)


def _stays_flat(node: ir.Node) -> bool:
    """Tell whether a node's output is the matrix of a Gemm, perhaps behind an activation."""
    if node.op_type in _ELEMENTWISE and node.inputs[0] is not None:
        producer = node.inputs[0].producer()
        return producer is not None and producer.op_type == "Gemm"
    return node.op_type == "Gemm"


def _reshape(graph: ir.Graph, anchor: ir.Node, data: ir.Value, shape: tuple[int, ...], name: str) -> ir.Value:
    value = add_constant(graph, f"{name}_shape", np.array(shape, np.int64))
    node = ir.node("Reshape", [data, value], name=name)
    node.outputs[0].name, node.outputs[0].type = name, data.type
    graph.insert_before(anchor, node)
    return node.outputs[0]


def _static_shape(value: ir.Value) -> tuple[int, ...] | None:
    """Return a shape for Reshape: at most one unknown dimension, as -1; None if there are more."""
    if value.shape is None:
        return None
    sizes = tuple(dim if isinstance(dim, int) else -1 for dim in value.shape)
    return sizes if sizes.count(-1) <= 1 and math.prod(sizes) != 0 else None
