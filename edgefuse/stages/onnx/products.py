"""Multiply-accumulates of the nodes of an ONNX graph whose shapes are known."""

from __future__ import annotations

import math

import onnx_ir as ir

PRODUCTS = frozenset(
    {"MatMul", "MatMulInteger", "MatMulIntegerToFloat", "FusedMatMul", "DynamicQuantizeMatMul", "QLinearMatMul"}
    | {"Gemm", "QGemm", "MatMulNBits"}
)
# The position of the weights: [channels out, channels in / group, *kernel].
_CONVOLUTIONS = {"Conv": 1, "ConvInteger": 1, "FusedConv": 1, "QLinearConv": 3}
_RECURRENT = frozenset({"LSTM", "GRU", "RNN", "DynamicQuantizeLSTM"})
_ATTENTION = frozenset({"Attention", "MultiHeadAttention"})


def macs(node: ir.Node) -> int:
    """Return the multiply-accumulates of a node; 0 where it is not a product."""
    kind = node.op_type
    if kind in _CONVOLUTIONS:
        return count(node.outputs[0]) * math.prod(shape_of(node.inputs[_CONVOLUTIONS[kind]])[1:])
    if kind == "ConvTranspose":
        return count(node.inputs[0]) * math.prod(shape_of(node.inputs[1])[1:])
    if kind in PRODUCTS:
        shape = shape_of(node.inputs[0])
        return count(node.outputs[0]) * shape[-2 if node.attributes.get_int("transA", 0) else -1]
    if kind in _RECURRENT:
        steps, batch, _ = shape_of(node.inputs[0])
        return steps * batch * (count(node.inputs[1]) + count(node.inputs[2]))
    if kind in _ATTENTION:
        return _attention(node)
    return 0


def _attention(node: ir.Node) -> int:
    """Return the products of queries with keys, and of their softmax with values."""
    queries, keys = node.inputs[0], node.inputs[1]
    if node.op_type == "Attention" and node.domain == "com.microsoft":  # the projections stand in its weights
        batch, steps, width = shape_of(queries)
        columns = shape_of(keys)[1]
        return batch * steps * (width * columns + 2 * steps * columns // 3)
    return (count(queries) + count(node.outputs[0])) * shape_of(keys)[-2]


def shape_of(value: ir.Value | None) -> tuple[int, ...]:
    """Return the shape of a value, in which no size is open; an empty one if it is not known."""
    return tuple(int(d) for d in value.shape) if value is not None and value.shape is not None else ()  # type: ignore[arg-type]


def count(value: ir.Value | None) -> int:
    """Return the number of elements of a value."""
    return math.prod(shape_of(value))
