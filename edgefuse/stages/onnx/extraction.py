"""A part of an ONNX graph as a graph of its own: what crosses is float32 there, as between all stages."""

from __future__ import annotations

import onnx_ir as ir
from torch import Tensor

from edgefuse.bundle.spec import StageSpec
from edgefuse.stages.found.parts import Part
from edgefuse.stages.onnx.module import OnnxModule
from edgefuse.stages.onnx.ports import renamed_result, unary
from edgefuse.stages.onnx.traced import OnnxTraced

_LOOKUPS = ("Gather",)
_SIZES = ("Shape", "Size")


def extracted(part: Part, spec: StageSpec, onnx: OnnxTraced, model: ir.Model) -> OnnxModule:
    """Return what a part computes as a module whose ports are those of its stage.

    Args:
        part: of the graph.
        spec: its wiring.
        onnx: the graph that the part was found in.
        model: the same graph with open sizes.
    """
    names = [port.tensor.name for port in spec.inputs]
    results = [port.tensor.name for port in spec.outputs]
    taken = [str(onnx.values[node].name) for node in part.inputs]
    given = [str(onnx.values[node].name) for node in (*part.results.values(), *part.outputs)]
    graph = ir.convenience.extract(model.graph, taken, list(dict.fromkeys(given)))
    by_name = {str(value.name): value for value in (*graph.inputs, *graph.outputs)}
    inside, outside = [by_name[name] for name in taken], [by_name[name] for name in given]
    _free(graph, {*names, *results})
    graph.outputs.clear()
    graph.inputs.clear()
    crossing = {port.tensor.name for port in spec.inputs if port.source.kind == "stage"}
    seen = {str(value.name): node.meta["val"] for node, value in onnx.values.items()}
    for name, value, before in zip(names, inside, taken, strict=True):
        _describe(value, seen[before])
        _take(graph, value, name, crosses=name in crossing)
    for value, before in zip(outside, given, strict=True):
        _describe(value, seen[before])
    graph.outputs.extend([renamed_result(graph, v, name) for name, v in zip(results, outside, strict=True)])
    return OnnxModule(ir.Model(graph, ir_version=model.ir_version), tables_of(graph))


def tables_of(graph: ir.Graph) -> tuple[int, ...]:
    """Return the rows of the tables that a graph looks up by numbers that it is given."""
    rows: list[int] = []
    for node in graph:
        if node.op_type not in _LOOKUPS or node.attributes.get_int("axis", 0) != 0:
            continue
        table, index = node.inputs[0], node.inputs[1]
        held = table.const_value if table is not None else None
        if held is not None and len(held.shape) == 2 and index is not None and _follows_an_input(index):
            rows.append(int(held.shape.numpy()[0]))
    return tuple(rows)


def _follows_an_input(value: ir.Value) -> bool:
    """Tell whether a value is computed from the values of an input, and not from its size alone."""
    waiting, seen = [value], {value}
    while waiting:
        node = waiting.pop().producer()
        if node is None or node.op_type in _SIZES:
            continue
        read = [one for one in node.inputs if one is not None and one not in seen]
        if any(one.is_graph_input() and not one.is_initializer() for one in read):
            return True
        seen.update(read)
        waiting += read
    return value.is_graph_input()


def _free(graph: ir.Graph, names: set[str]) -> None:
    """Rename what bears the name of a port: a constant, or a value inside."""
    values = [*graph.inputs, *graph.initializers.values(), *(value for node in graph for value in node.outputs)]
    for value in values:
        if value.name in names:
            value.name = f"{value.name}:inside"


def _describe(value: ir.Value, seen: Tensor) -> None:
    """Say of a value what was seen of it, where it is not known: its type, and how many axes it has."""
    if value.dtype is None:
        value.type = ir.TensorType(ir.DataType[_NAMES[str(seen.dtype)]])
    if value.shape is None:
        value.shape = ir.Shape([None] * seen.dim())


_NAMES = {"torch.float32": "FLOAT", "torch.int64": "INT64", "torch.int32": "INT32", "torch.bool": "BOOL"}
_NAMES |= {"torch.uint8": "UINT8"}
"""Of the types that may cross."""


def _take(graph: ir.Graph, value: ir.Value, name: str, *, crosses: bool) -> None:
    """Let a graph take a value under the name of a port; of another type than float32 if it comes from outside."""
    cast = crosses and value.dtype not in (None, ir.DataType.FLOAT)
    given = ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT) if crosses else value.type, shape=value.shape)
    graph.inputs.append(given)
    inside: ir.Value = given
    if cast:
        node = unary("Cast", given, f"{name}:Cast", to=value.dtype)
        inside = node.outputs[0]
        graph.insert_before(next(iter(graph)), node)
    for use in list(value.uses()):
        use.node.replace_input_with(use.idx, inside)
