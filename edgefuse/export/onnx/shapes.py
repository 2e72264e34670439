"""Shapes of ONNX Runtime's own operators (`com.microsoft`), which ONNX's shape inference passes over."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import onnx_ir as ir

from edgefuse.stages.onnx.products import shape_of

_DOMAIN = "com.microsoft"
Shape: TypeAlias = tuple[int, ...]
Rule: TypeAlias = Callable[[ir.Node, Sequence[Shape]], Shape]


def complete_shapes(graph: ir.Graph) -> bool:
    """Give its shape to the first output of operators whose inputs all have one; return whether there was any.

    What a norm was taken of, its fourth output, has that shape, too.
    """
    found = False
    for node in graph:
        output = node.outputs[0]
        if node.domain != _DOMAIN or node.op_type not in _RULES or output.shape is not None:
            continue
        if all(value is None or (value.shape is not None and value.shape.is_static()) for value in node.inputs):
            shapes = [shape_of(value) for value in node.inputs]
            output.shape = ir.Shape(_RULES[node.op_type](node, shapes))
            first = node.inputs[0]
            output.type = (
                first.type if first and node.op_type not in _FLOAT_RESULTS else ir.TensorType(ir.DataType.FLOAT)
            )
            for summed in node.outputs[3:4]:
                summed.shape, summed.type = output.shape, output.type
            found = True
    return found


def _like_first(node: ir.Node, shapes: Sequence[Shape]) -> Shape:
    return shapes[0]


def _pairwise(node: ir.Node, shapes: Sequence[Shape]) -> Shape:
    return np.broadcast_shapes(shapes[0], shapes[3])  # between them: scale and zero point of the first


def _product(node: ir.Node, shapes: Sequence[Shape]) -> Shape:
    left, right = (
        shape[:-2] + shape[:-3:-1] if node.attributes.get_int(flag, 0) else shape
        for shape, flag in zip(shapes, ("transA", "transB"), strict=False)
    )
    return (*np.broadcast_shapes(left[:-2], right[:-2]), left[-2], right[-1])


def _few_bits_product(node: ir.Node, shapes: Sequence[Shape]) -> Shape:
    return (*shapes[0][:-1], node.attributes.get_int("N", 0))


def _few_bits_lookup(node: ir.Node, shapes: Sequence[Shape]) -> Shape:
    axis = node.attributes.get_int("gather_axis", 0)
    return (*shapes[0][:axis], *shapes[1], *shapes[0][axis + 1 :])


def _recurrent(node: ir.Node, shapes: Sequence[Shape]) -> Shape:
    steps, batch, _ = shapes[0]
    return (steps, shapes[2][0], batch, node.attributes.get_int("hidden_size", 0))


def _packed_attention(node: ir.Node, shapes: Sequence[Shape]) -> Shape:
    return (*shapes[0][:2], shapes[1][1] // 3)


_FLOAT_RESULTS = frozenset({"DynamicQuantizeMatMul", "MatMulIntegerToFloat", "GatherBlockQuantized"})
_LIKE_FIRST = ("BiasGelu", "FastGelu", "Gelu", "QuickGelu", "SkipLayerNormalization", "MultiHeadAttention")
_RULES: Mapping[str, Rule] = {
    **dict.fromkeys((*_LIKE_FIRST, "DequantizeLinear", "QuantizeLinear", "QLinearSigmoid"), _like_first),
    **dict.fromkeys(("QLinearAdd", "QLinearMul"), _pairwise),
    **dict.fromkeys(("FusedMatMul", "DynamicQuantizeMatMul", "MatMulIntegerToFloat"), _product),
    "MatMulNBits": _few_bits_product,
    "GatherBlockQuantized": _few_bits_lookup,
    "DynamicQuantizeLSTM": _recurrent,
    "Attention": _packed_attention,
}
