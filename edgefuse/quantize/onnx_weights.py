"""Weights of an ONNX graph in eight or sixteen bits."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgefuse.quantize.onnx_graph import add_constant, constant

Floats = npt.NDArray[np.float32]

SMALLEST_TABLE = 4096
"""Elements below which an embedding table or a 16-bit weight saves less than the nodes it needs."""

_SMALLEST_SCALE = 1e-12
_BIAS_LIMIT = 2.0**30


def symmetric_int8(weight: Floats, axis: int | None) -> tuple[npt.NDArray[np.int8], Floats]:
    """Round weights to -127..127 with zero at 0.

    Args:
        weight: the float weights.
        axis: of the output channels, one scale each; None for one scale.

    Returns:
        The integers and the scales: [channels], or [] for one.
    """
    others = None if axis is None else tuple(a for a in range(weight.ndim) if a != axis)
    scale = np.maximum(np.abs(weight).max(axis=others) / 127.0, _SMALLEST_SCALE).astype(np.float32)
    return _round(weight, scale, axis), scale


def int8_with_room_for_bias(
    weight: Floats, axis: int | None, bias: Floats | None, input_scale: float
) -> tuple[npt.NDArray[np.int8], Floats]:
    """Round weights like `symmetric_int8`, with scales so large that the bias fits int32 at `input_scale * scale`."""
    integers, scale = symmetric_int8(weight, axis)
    if bias is None:
        return integers, scale
    needed = np.abs(bias) / (input_scale * _BIAS_LIMIT)
    roomy = np.maximum(scale, needed.max() if axis is None else needed).astype(np.float32)
    return (integers, scale) if np.array_equal(roomy, scale) else (_round(weight, roomy, axis), roomy)


def embed_in_int8(model: ir.Model) -> None:
    """Store embedding tables as int8 with one scale: Gather picks int8 rows, DequantizeLinear follows."""
    for node in list(model.graph):
        table = constant(node.inputs[0]) if node.op_type == "Gather" else None
        if table is None or table.dtype != np.float32 or table.ndim != 2 or table.size < SMALLEST_TABLE:
            continue
        name = node.inputs[0].name if node.inputs[0] is not None else ""
        integers, scale = symmetric_int8(table, None)
        node.replace_input_with(0, add_constant(model.graph, f"{name}/int8", integers))
        rows = node.outputs[0]
        floats = ir.node("DequantizeLinear", [rows, add_constant(model.graph, f"{name}/scale", scale)])
        floats.name, floats.outputs[0].type = f"{node.name}/float", ir.TensorType(ir.DataType.FLOAT)
        floats.outputs[0].name, floats.outputs[0].shape = f"{rows.name}/float", rows.shape
        rows.type = ir.TensorType(ir.DataType.INT8)
        model.graph.insert_after(node, floats)
        for use in list(rows.uses()):
            if use.node is not floats:
                use.node.replace_input_with(use.idx, floats.outputs[0])


def store_in_float16(model: ir.Model) -> None:
    """Store large float32 weights as float16 behind a Cast, which the runtime folds when it opens the file.

    A weight that float16 cannot express (beyond 65504) stays as it is.
    """
    limit = float(np.finfo(np.float16).max)
    for value in list(model.graph.initializers.values()):
        array = constant(value)
        if array is None or array.dtype != np.float32 or array.size < SMALLEST_TABLE // 16:
            continue
        if value.is_graph_output() or not value.uses() or float(np.abs(array).max()) > limit:
            continue
        half = add_constant(model.graph, f"{value.name}/float16", array.astype(np.float16))
        cast = ir.node("Cast", [half], {"to": ir.DataType.FLOAT}, name=f"{value.name}/Cast")
        cast.outputs[0].name = f"{value.name}/float32"
        first = next(iter(model.graph))
        model.graph.insert_before(first, cast)
        value.replace_all_uses_with(cast.outputs[0])


def _round(weight: Floats, scale: Floats, axis: int | None) -> npt.NDArray[np.int8]:
    shape = [1] * weight.ndim
    if axis is not None:
        shape[axis] = -1
    rounded = np.rint(weight / scale.reshape(shape) if axis is not None else weight / scale)
    integers: npt.NDArray[np.int8] = np.clip(rounded, -127, 127).astype(np.int8)
    return integers
