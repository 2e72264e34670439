"""Write linear layers over sequences as two-dimensional Gemm with its bias, the form whose int8 kernel adds the bias.

As MatMul and Add, ONNX Runtime rounds to int8 between the two, and runs two kernels. What stands between linear layers
and treats each row alike (residual sums, layer norms, activations) moves into two dimensions with them, so that a whole
transformer layer is reshaped around its attention only.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from edgefuse.quantize.onnx.graph import add_constant, become_output, constant, only_use, replace_value

_ELEMENTWISE = frozenset({"Relu", "Clip", "Sigmoid", "Tanh", "Gelu"})
_SUMS = frozenset({"Add", "Sum"})


def matmuls_to_gemm(model: ir.Model) -> None:
    """Turn MatMul by a constant, with the Add of a constant bias if there is one, into Reshape, Gemm, Reshape.

    Shapes have to be known up to one dimension. Then compute what follows on rows, and drop the reshapes that cancel.
    """
    for node in list(model.graph):
        if node.op_type == "MatMul" and node.graph is not None:
            _convert(model.graph, node)
    for node in list(model.graph):
        if node.op_type in _SUMS or _is_rowwise(node):
            _compute_on_rows(model.graph, node)
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
    gemm.outputs[0].name, gemm.outputs[0].type = f"{name}/columns", data.type
    gemm.outputs[0].shape = ir.Shape([None, matrix.shape[1]])
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


def _compute_on_rows(graph: ir.Graph, node: ir.Node) -> None:
    """Let a node take rows, if a Reshape of rows is what it takes, and put that Reshape behind it."""
    data = [value for value in (node.inputs if node.op_type in _SUMS else node.inputs[:1]) if value is not None]
    before = [(value, _rows_behind(value)) for value in data]
    shape, result = _static_shape(data[0]), node.outputs[0]
    if (
        not shape  # unknown, or one number
        or shape[-1] < 1
        or all(rows is None for _, rows in before)
        or any(value.shape != data[0].shape for value in data)
    ):
        return
    for index, (value, rows) in enumerate(before):
        node.replace_input_with(
            index, rows or _reshape(graph, node, value, (-1, shape[-1]), f"{node.name}/rows_{index}")
        )
    restored = ir.node(
        "Reshape", [result, add_constant(graph, f"{node.name}/restored_shape", np.array(shape, np.int64))]
    )
    restored.name, restored.outputs[0].name = f"{node.name}/restored", f"{node.name}/restored"
    restored.outputs[0].type, restored.outputs[0].shape = result.type, data[0].shape
    graph.insert_after(node, restored)
    if result.is_graph_output():
        become_output(graph, result, restored.outputs[0])
    result.shape = ir.Shape([None, shape[-1]])
    for use in list(result.uses()):
        if use.node is not restored:
            use.node.replace_input_with(use.idx, restored.outputs[0])


def _is_rowwise(node: ir.Node) -> bool:
    if node.op_type == "LayerNormalization":
        shape = node.inputs[0].shape if node.inputs[0] is not None else None
        return shape is not None and node.attributes.get_int("axis", -1) in (-1, len(shape) - 1)
    return node.op_type in _ELEMENTWISE


def _rows_behind(value: ir.Value) -> ir.Value | None:
    """Return the matrix that a Reshape made a value from, if its rows are the value's."""
    node = value.producer()
    source = node.inputs[0] if node is not None and node.op_type == "Reshape" else None
    return source if source is not None and _same_rows(source, value) else None


def _merge_reshapes(graph: ir.Graph, node: ir.Node) -> None:
    """Let a Reshape of a Reshape start from the first one's input; drop one that changes nothing."""
    data, shape, result = node.inputs[0], node.inputs[1], node.outputs[0]
    before = data.producer() if data is not None else None
    sizes = constant(shape)
    if before is None or before.op_type != "Reshape" or sizes is None or (sizes == 0).any():
        return
    origin = before.inputs[0]
    node.replace_input_with(0, origin)
    if origin is not None and len(sizes) == 2 and _is_matrix(origin, int(sizes[1])) and not result.is_graph_output():
        result.replace_all_uses_with(origin)
        graph.remove(node, safe=True)
    if data is not None and not data.uses() and not data.is_graph_output():
        graph.remove(before, safe=True)


def _is_matrix(value: ir.Value, width: int) -> bool:
    return value.shape is not None and len(value.shape) == 2 and value.shape[1] == width


def _same_rows(matrix: ir.Value, value: ir.Value) -> bool:
    width = value.shape[-1] if value.shape is not None and len(value.shape) > 2 else None
    return isinstance(width, int) and _is_matrix(matrix, width)


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
