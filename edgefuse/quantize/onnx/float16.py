"""Compute an ONNX graph in float16, with casts where it meets values that stay float32.

A strongly typed runtime takes every type from the graph, so the choice is made here, by what each node does:

- what sums or raises many numbers (norms of vectors, powers, logarithms) stays float32: float16 ends at 65504;
- so does what has a constant that float16 cannot hold: an epsilon that would be 0, a mask that would be infinite;
- so does arithmetic on counts (lengths, positions): float16 has no odd number above 2048.

Residual sums, layer norms, activations, convolutions and products are float16. So is a softmax over float16 scores: as
TensorRT's own Attention operator has it, queries, keys, mask and values are of one type, and it adds in float32 inside,
as does a layer norm. Over scores that stayed float32, for the sake of a mask, it is float32.
"""

from __future__ import annotations

from collections.abc import Mapping, Set

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from edgefuse.errors import QuantizeError
from edgefuse.quantize.onnx.graph import add_constant, become_output, constant

_WIDE = frozenset(
    {"LogSoftmax", "Exp", "Log", "Pow", "Reciprocal", "Sqrt", "CumSum", "LpNormalization"}
    | {f"Reduce{kind}" for kind in ("L1", "L2", "LogSum", "LogSumExp", "Prod", "Sum", "SumSquare")}
)
_SCALED = frozenset({"QuantizeLinear", "DequantizeLinear"})  # whose scales were chosen to be float16
_COUNTING = frozenset({ir.DataType.INT32, ir.DataType.INT64})
_FLOAT, _HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16
_LIMITS = np.finfo(np.float16)
_FEW = 16
"""Elements up to which a constant is a setting (an epsilon, a bound), of which every one has to survive."""


def compute_in_float16(model: ir.Model, wide: Set[str] = _WIDE) -> int:
    """Turn a float32 graph into one that computes in float16, in place; its inputs and outputs stay float32.

    Args:
        model: the graph; QuantizeLinear and DequantizeLinear take and give float16 then, as their scales do.
        wide: operators that stay float32.

    Returns:
        How many nodes compute in float16.

    Raises:
        QuantizeError: if the type of a value cannot be inferred.
    """
    ShapeInferencePass()(model)
    narrow = _narrow_nodes(model, wide)
    halves: dict[ir.Value, ir.Value] = {}
    floats: dict[ir.Value, ir.Value] = {}
    for node in list(model.graph):
        is_narrow = node in narrow
        for index in _open_inputs(node, model.opset_imports):
            value = node.inputs[index]
            if value is not None and value.dtype in (_FLOAT, _HALF):
                node.replace_input_with(
                    index, _as(_HALF, value, model, halves) if is_narrow else _as(_FLOAT, value, model, floats)
                )
        if is_narrow:
            for output in node.outputs:
                if output.dtype == _FLOAT:
                    output.type = ir.TensorType(_HALF)
    _keep_output_types(model)
    return len(narrow)


def survives_in_float16(array: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> bool:
    """Tell whether a constant keeps its meaning: nothing overflows, and no setting becomes 0."""
    finite = np.abs(array[np.isfinite(array)])
    if finite.size and float(finite.max()) > float(_LIMITS.max):
        return False
    return array.size > _FEW or not ((finite > 0) & (finite < float(_LIMITS.tiny))).any()


def _narrow_nodes(model: ir.Model, wide: Set[str]) -> set[ir.Node]:
    """Return the nodes that compute in float16."""
    counts: set[ir.Value] = set()
    narrow: set[ir.Node] = set()
    for node in model.graph:
        data = [node.inputs[index] for index in _open_inputs(node, model.opset_imports)]
        values = [value for value in data if value is not None]
        computed = [value for value in values if value.const_value is None and value.dtype == _FLOAT]
        if node.op_type == "Cast":
            if values and values[0].dtype in _COUNTING:
                counts.update(node.outputs)
        elif computed and all(value in counts for value in computed):
            counts.update(node.outputs)
        elif _may_be_narrow(node, wide, values) and (node.op_type != "Softmax" or values[0].producer() in narrow):
            narrow.add(node)
    return narrow


def _may_be_narrow(node: ir.Node, wide: Set[str], values: list[ir.Value]) -> bool:
    kinds = {value.dtype for value in (*values, *node.outputs)}
    if None in kinds:
        raise QuantizeError(f"the output type of '{node.name}' is unknown", got=node.op_type)
    if node.op_type in wide or _FLOAT not in kinds:
        return False
    if node.op_type in _SCALED:
        return True
    constants = [array for value in values if (array := constant(value)) is not None and array.dtype == np.float32]
    return all(survives_in_float16(array) for array in constants)


def _open_inputs(node: ir.Node, opsets: Mapping[str, int]) -> list[int]:
    """Return the inputs whose type may be float16 as well as float32: not, for one, the scales of Resize."""
    schema = onnx.defs.get_schema(node.op_type, opsets[""])
    half = {c.type_param_str for c in schema.type_constraints if "tensor(float16)" in c.allowed_type_strs}
    last = len(schema.inputs) - 1  # the last one may stand for any number
    return [index for index in range(len(node.inputs)) if schema.inputs[min(index, last)].type_str in half]


def _as(kind: ir.DataType, value: ir.Value, model: ir.Model, known: dict[ir.Value, ir.Value]) -> ir.Value:
    """Return a value in a type: itself, a constant, or behind a Cast."""
    if value.dtype == kind:
        return value
    if value not in known:
        known[value] = _constant_as(kind, value, model.graph) or _cast(kind, value, model.graph)
    return known[value]


def _constant_as(kind: ir.DataType, value: ir.Value, graph: ir.Graph) -> ir.Value | None:
    array = constant(value)
    if array is None:
        return None
    return add_constant(graph, f"{value.name}/{kind.name.lower()}", array.astype(kind.numpy()))


def _cast(kind: ir.DataType, value: ir.Value, graph: ir.Graph) -> ir.Value:
    """Cast a value right behind the node that makes it; a Cast of a Cast starts from the first one's input."""
    source, producer = value, value.producer()
    if producer is not None and producer.op_type == "Cast" and producer.inputs[0] is not None:
        source = producer.inputs[0]
        if source.dtype == kind:
            return source
    name = f"{value.name}/{kind.name.lower()}"
    cast = ir.node("Cast", [source], {"to": kind}, name=name)
    result = cast.outputs[0]
    result.name, result.type, result.shape = name, ir.TensorType(kind), value.shape
    if producer is not None:
        graph.insert_after(producer, cast)
    else:
        graph.insert_before(next(iter(graph)), cast)
    return result


def _keep_output_types(model: ir.Model) -> None:
    for output in list(model.graph.outputs):
        if output.dtype == _HALF:
            become_output(model.graph, output, _cast(_FLOAT, output, model.graph))
