"""A Clip with one bound is a Max or a Min.

TensorRT gives a Clip without an upper bound the largest float32 as one. In float16 there is no such number: its builder
warns of a "precision-lose casting", and the bound becomes infinite by luck.
"""

from __future__ import annotations

import onnx_ir as ir


def name_single_bounds(model: ir.Model) -> None:
    """Turn each Clip with one bound into the operator that has one, in place; a Clip without any is dropped."""
    for node in list(model.graph):
        if node.op_type != "Clip":
            continue
        value, low, high = (*node.inputs, None, None)[:3]
        if low is not None and high is not None:
            continue
        kept = [one for one in (value, low, high) if one is not None]
        operator = "Identity" if len(kept) == 1 else "Max" if low is not None else "Min"
        made = ir.node(operator, kept, name=node.name, num_outputs=1)
        made.metadata_props.update(node.metadata_props)
        ir.convenience.replace_nodes_and_values(model.graph, node, [node], [made], node.outputs, made.outputs)
