"""Weights of an ONNX graph in eight or sixteen bits."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgefuse.quantize.onnx.graph import add_constant, constant, replace_value

Floats = npt.NDArray[np.float32]

SMALLEST_TABLE = 4096
"""Elements below which an embedding table or a 16-bit weight saves less than the nodes it needs."""

_PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "GRU", "LSTM", "RNN"})

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
    scale = symmetric_scales(weight, axis)
    return to_int8(weight, scale, axis), scale


def symmetric_scales(weight: Floats, axis: int | None) -> Floats:
    """Return the scales that map the largest weight, of a channel or of all, to 127: [channels], or [] for one."""
    others = None if axis is None else tuple(a for a in range(weight.ndim) if a != axis)
    scales: Floats = np.maximum(np.abs(weight).max(axis=others) / 127.0, _SMALLEST_SCALE).astype(np.float32)
    return scales


def int8_with_room_for_bias(
    weight: Floats, axis: int | None, bias: Floats | None, input_scale: float
) -> tuple[npt.NDArray[np.int8], Floats]:
    """Round weights like `symmetric_int8`, with scales so large that the bias fits int32 at `input_scale * scale`.

    Args:
        weight: float, any shape.
        axis: of the output channels; None for one scale.
        bias: float [channels], or None.
        input_scale: of the layer's input.
    """
    integers, scale = symmetric_int8(weight, axis)
    if bias is None:
        return integers, scale
    needed = np.abs(bias) / (input_scale * _BIAS_LIMIT)
    roomy = np.maximum(scale, needed.max() if axis is None else needed).astype(np.float32)
    return (integers, scale) if np.array_equal(roomy, scale) else (to_int8(weight, roomy, axis), roomy)


def tables(model: ir.Model) -> list[tuple[ir.Node, Floats]]:
    """Return the lookups of rows in a constant table that is worth quantizing, and the tables: [rows, width]."""
    found = []
    for node in model.graph:
        table = constant(node.inputs[0]) if node.op_type == "Gather" else None
        whole_rows = node.attributes.get_int("axis", 0) == 0
        if table is not None and table.dtype == np.float32 and table.ndim == 2 and whole_rows:
            found.append((node, table))
    return [(node, table) for node, table in found if table.size >= SMALLEST_TABLE]


def embed_in_int8(model: ir.Model) -> None:
    """Store embedding tables as int8 with a scale per row.

    Two Gathers pick the int8 rows and their scales, so that only rows that are looked up become float. (A
    DequantizeLinear of the table would expand all of it in every run.)
    """
    graph = model.graph
    one = np.ones((), np.float32)
    for node, table in tables(model):
        name = node.inputs[0].name if node.inputs[0] is not None else ""
        integers, scale = symmetric_int8(table, 0)
        node.replace_input_with(0, add_constant(graph, f"{name}/int8", integers))
        rows = node.outputs[0]
        scales = ir.node("Gather", [add_constant(graph, f"{name}/scale", scale[:, None]), node.inputs[1]])
        integral = ir.node("DequantizeLinear", [rows, add_constant(graph, "one", one)])
        floats = ir.node("Mul", [integral.outputs[0], scales.outputs[0]])
        for number, made in enumerate((scales, integral, floats)):
            made.name = made.outputs[0].name = f"{node.name}/float_{number}"
        graph.insert_after(node, [scales, integral, floats])
        replace_value(graph, rows, floats.outputs[0])
        integral.replace_input_with(0, rows)
        rows.type = ir.TensorType(ir.DataType.INT8)


def store_in_float16(model: ir.Model, *, factors_only: bool = False) -> None:
    """Store large float32 weights as float16 behind a Cast, which the runtime folds when it opens the file.

    A weight that float16 cannot express (beyond 65504) stays as it is.

    Args:
        model: changed in place.
        factors_only: leave what is no factor of a product: the scales of integers, for one, are exact.
    """
    limit = float(np.finfo(np.float16).max)
    for value in list(model.graph.initializers.values()):
        array = constant(value)
        if array is None or array.dtype != np.float32 or array.size < SMALLEST_TABLE // 16:
            continue
        users = {use.node.op_type for use in value.uses()}
        if value.is_graph_output() or not users or float(np.abs(array).max()) > limit:
            continue
        if factors_only and not users <= _PRODUCTS:
            continue
        half = add_constant(model.graph, f"{value.name}/float16", array.astype(np.float16))
        cast = ir.node("Cast", [half], {"to": ir.DataType.FLOAT}, name=f"{value.name}/Cast")
        cast.outputs[0].name = f"{value.name}/float32"
        first = next(iter(model.graph))
        model.graph.insert_before(first, cast)
        value.replace_all_uses_with(cast.outputs[0])


def to_int8(weight: Floats, scale: Floats, axis: int | None) -> npt.NDArray[np.int8]:
    """Round weights to -127..127 in steps of their scales: [channels] along an axis, or [] for one.

    Args:
        weight: float, any shape.
        scale: float [channels], or [] for one.
        axis: of the channels; None for one scale.
    """
    shape = [1] * weight.ndim
    if axis is not None:
        shape[axis] = -1
    rounded = np.rint(weight / scale.reshape(shape) if axis is not None else weight / scale)
    integers: npt.NDArray[np.int8] = np.clip(rounded, -127, 127).astype(np.int8)
    return integers
