"""Weights in four bits for ONNX: blocks of 32 numbers, each block with its scale.

The scheme `dynamic_wi4_af32` has products and tables so; a scheme with `table_bits` 4 the tables alone.

ONNX Runtime's MatMulNBits quantizes a row of activations to int8 when it runs and multiplies by the blocks as they
are; GatherBlockQuantized picks rows of a table and expands those alone. Both are operators of the runtime
(`com.microsoft`), since ONNX has none for either: a standard DequantizeLinear would expand whole tables.

One scale per block is the format of the Q4_0 weights of llama.cpp; why weights stand four bits at all: Dettmers and
Zettlemoyer, "The case for 4-bit precision", arXiv:2212.09720.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgefuse.bundle.scheme import Scheme
from edgefuse.quantize.onnx.graph import add_constant, replace_value
from edgefuse.quantize.onnx.plan import excluded, weight_axis, weight_of
from edgefuse.quantize.onnx.weights import Floats, tables

BLOCK = 32
_DOMAIN = "com.microsoft"
_COMPUTE_IN_INT8 = 4  # MatMulNBits' accuracy_level


def quantize_to_int4(model: ir.Model, scheme: Scheme) -> int:
    """Replace matrix products by a constant, and embedding tables, and return how many were replaced."""
    nodes = [node for node in model.graph if node.op_type in ("MatMul", "Gemm") and weight_of(node) is not None]
    chosen = [node for node in nodes if not excluded(node, scheme)]
    for node in chosen:
        _replace_product(model.graph, node)
    if chosen:
        model.opset_imports.setdefault(_DOMAIN, 1)
    return len(chosen) + embed_in_int4(model, scheme)


def embed_in_int4(model: ir.Model, scheme: Scheme) -> int:
    """Store embedding tables whose rows are whole blocks in four bits; return how many."""
    found = [(node, table) for node, table in tables(model) if _in_blocks(table) and not excluded(node, scheme)]
    for node, table in found:
        _replace_lookup(model.graph, node, table)
    if found:
        model.opset_imports.setdefault(_DOMAIN, 1)
    return len(found)


def blocks_of_int4(rows: Floats) -> tuple[npt.NDArray[np.uint8], Floats]:
    """Round rows to 0..15, where 8 is zero; the number of largest magnitude in a block becomes 0 exactly.

    Args:
        rows: float32 [rows, width]; the width is filled up with zeros to whole blocks.

    Returns:
        The integers, two to a byte, the first in the lower bits: [rows, blocks, 16], and the scales: [rows, blocks].
    """
    blocks = np.pad(rows, ((0, 0), (0, -rows.shape[1] % BLOCK))).reshape(len(rows), -1, BLOCK)
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=2, keepdims=True), axis=2)
    scale = (largest / -8.0).astype(np.float32)
    scaled = np.divide(blocks, scale, out=np.zeros_like(blocks), where=scale != 0.0)
    integers = np.clip(np.rint(scaled) + 8, 0, 15).astype(np.uint8)
    return integers[:, :, 0::2] | integers[:, :, 1::2] << 4, scale[:, :, 0]


def _in_blocks(table: Floats) -> bool:
    return int(table.shape[1]) % BLOCK == 0


def _replace_product(graph: ir.Graph, node: ir.Node) -> None:
    weight, name = weight_of(node), node.name or ""
    if weight is None:
        return
    rows = weight if weight_axis(node) == 0 else weight.T
    packed, scale = blocks_of_int4(rows)
    inputs = [node.inputs[0], add_constant(graph, f"{name}/int4", packed), add_constant(graph, f"{name}/scale", scale)]
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        inputs += [None, None, node.inputs[2]]
    sizes = {"N": rows.shape[0], "K": rows.shape[1]}
    attributes = {**sizes, "bits": 4, "block_size": BLOCK, "accuracy_level": _COMPUTE_IN_INT8}
    _put(graph, node, ir.node("MatMulNBits", inputs, attributes, domain=_DOMAIN, name=name))


def _replace_lookup(graph: ir.Graph, node: ir.Node, table: Floats) -> None:
    packed, scale = blocks_of_int4(table)
    name = node.inputs[0].name if node.inputs[0] is not None else ""
    inputs = [
        add_constant(graph, f"{name}/int4", packed.reshape(len(table), -1)),
        node.inputs[1],
        add_constant(graph, f"{name}/scale", scale),
    ]
    attributes = {"bits": 4, "block_size": BLOCK, "gather_axis": 0, "quantize_axis": 1}
    _put(graph, node, ir.node("GatherBlockQuantized", inputs, attributes, domain=_DOMAIN, name=node.name))


def _put(graph: ir.Graph, node: ir.Node, new: ir.Node) -> None:
    """Let a new node take the place of an old one."""
    new.outputs[0].name = f"{node.name}/from_int4"
    graph.insert_before(node, new)
    replace_value(graph, node.outputs[0], new.outputs[0])
    graph.remove(node, safe=True)
