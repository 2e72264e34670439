"""Put WHILE loops in place of the custom operators that `recurrent` leaves in a file.

A loop carries the step, the projected inputs, the outputs so far and the states. Its body reads one step, multiplies
the state by the recurrent weights (constants of the body, so that LiteRT packs them once), runs the cell and writes
one step. Everything here is the public schema of TFLite: no converter sees the loops.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

from edgefuse.export.tflite.recurrent import CODE

_OPTIONS = {
    "ADD": "AddOptions",
    "DYNAMIC_UPDATE_SLICE": "DynamicUpdateSliceOptions",
    "FILL": "FillOptions",
    "FULLY_CONNECTED": "FullyConnectedOptions",
    "GATHER": "GatherOptions",
    "LESS": "LessOptions",
    "MUL": "MulOptions",
    "RESHAPE": "ReshapeOptions",
    "SPLIT": "SplitOptions",
    "SUB": "SubOptions",
    "WHILE": "WhileOptions",
}
_LARGEST_OLD_CODE = 127  # what the schema's first field for operators can hold
_TYPES = {"float32": schema.TensorType.FLOAT32, "int32": schema.TensorType.INT32, "bool": schema.TensorType.BOOL}


def expand_recurrences(model: Any) -> None:
    """Replace each custom operator for a recurrence in a file's main graph by a loop.

    Args:
        model: the schema's `ModelT`, with one subgraph; changed in place.
    """
    main = model.subgraphs[0]
    operators, main.operators = main.operators, []
    for operator in operators:
        code = (model.operatorCodes[operator.opcodeIndex].customCode or b"").decode()
        if code.startswith(CODE):
            cell, direction = code.removeprefix(CODE + ".").split(".")
            _add_loop(model, operator, cell, reverse=direction == "reverse")
        else:
            main.operators.append(operator)
    if len(model.subgraphs) > 1:
        _drop_unused_tensors(model)
        _drop_unused_codes(model)


class _Graph:
    """Adds tensors and operators to a subgraph, whose name is the prefix of their names."""

    def __init__(self, model: Any, subgraph: Any, name: str) -> None:
        self.model = model
        self.subgraph = subgraph
        self._name = name

    @classmethod
    def like(cls, main: _Graph, carried: Sequence[int], name: str) -> _Graph:
        """Add a subgraph to the file whose inputs are shaped like tensors of the main graph."""
        subgraph = schema.SubGraphT(tensors=[], inputs=[], outputs=[], operators=[], name=name.encode())
        main.model.subgraphs.append(subgraph)
        graph = cls(main.model, subgraph, name)
        subgraph.inputs = [graph.add_tensor("carried", main.shape(index), main.dtype(index)) for index in carried]
        return graph

    def shape(self, tensor: int) -> list[int]:
        """Return the shape of a tensor."""
        shape = self.subgraph.tensors[tensor].shape
        return [] if shape is None else [int(size) for size in shape]

    def dtype(self, tensor: int) -> str:
        """Return the type of a tensor, as numpy calls it."""
        return next(name for name, dtype in _TYPES.items() if dtype == self.subgraph.tensors[tensor].type)

    def is_constant(self, tensor: int) -> bool:
        """Tell whether a tensor has a value in the file."""
        return self.model.buffers[self.subgraph.tensors[tensor].buffer].data is not None

    def copy_constant(self, source: _Graph, tensor: int) -> int:
        """Add a constant of another subgraph to this one; the file holds its value once."""
        buffer = source.subgraph.tensors[tensor].buffer
        return self.add_tensor("constant", source.shape(tensor), source.dtype(tensor), buffer)

    def add_tensor(self, name: str, shape: Sequence[int], dtype: str = "float32", buffer: int = 0) -> int:
        """Add a tensor and return its index. Names are unique within a file if prefixes are."""
        index = len(self.subgraph.tensors)
        size = np.array(shape, np.int32)
        full = f"{self._name}/{name}_{index}".encode()
        tensor = schema.TensorT(shape=size, type=_TYPES[dtype], buffer=buffer, name=full, hasRank=True)
        self.subgraph.tensors.append(tensor)
        return index

    def add_constant(self, value: npt.NDArray[Any]) -> int:
        """Add a constant of int32 or float32."""
        buffers = self.model.buffers
        buffers.append(schema.BufferT(data=np.frombuffer(value.tobytes(), np.uint8)))
        return self.add_tensor("constant", value.shape, value.dtype.name, len(buffers) - 1)

    def add_integers(self, *values: int) -> int:
        """Add a constant vector of int32."""
        return self.add_constant(np.array(values, np.int32))

    def add_integer(self, value: int) -> int:
        """Add a constant scalar of int32."""
        return self.add_constant(np.array(value, np.int32))

    def add_operator(self, kind: str, inputs: Sequence[int], outputs: Sequence[int], **options: Any) -> None:
        """Add an operator that writes tensors that are there already."""
        name = _OPTIONS.get(kind)
        operator = schema.OperatorT(
            opcodeIndex=_code(self.model, getattr(schema.BuiltinOperator, kind)),
            inputs=np.array(inputs, np.int32),
            outputs=np.array(outputs, np.int32),
            builtinOptionsType=getattr(schema.BuiltinOptions, name) if name else 0,
            builtinOptions=getattr(schema, f"{name}T")(**options) if name else None,
        )
        self.subgraph.operators.append(operator)

    def add(
        self, kind: str, *inputs: int, shape: Sequence[int] | None = None, dtype: str = "float32", **options: Any
    ) -> int:
        """Add an operator of one output, shaped like its first input unless told, and return the output."""
        output = self.add_tensor(kind.lower(), self.shape(inputs[0]) if shape is None else shape, dtype)
        self.add_operator(kind, inputs, [output], **options)
        return output

    def split(self, tensor: int, parts: int) -> list[int]:
        """Split a tensor along its last axis."""
        *rest, width = self.shape(tensor)
        outputs = [self.add_tensor("split", [*rest, width // parts]) for _ in range(parts)]
        self.add_operator("SPLIT", [self.add_integer(len(rest)), tensor], outputs, numSplits=parts)
        return outputs


def _code(model: Any, builtin: int) -> int:
    """Return the index of an operator's code in a file, added where the file has none."""
    for index, code in enumerate(model.operatorCodes):
        if code.builtinCode == builtin:
            return index
    old = min(builtin, _LARGEST_OLD_CODE)
    model.operatorCodes.append(schema.OperatorCodeT(deprecatedBuiltinCode=old, builtinCode=builtin, version=1))
    return len(model.operatorCodes) - 1


def _add_loop(model: Any, operator: Any, cell: str, *, reverse: bool) -> None:
    """Append a loop to the main graph in place of an operator, and its condition and body to the file."""
    main = _Graph(model, model.subgraphs[0], "main")
    inputs, weight, *rest = (int(index) for index in operator.inputs)
    outputs = [int(index) for index in operator.outputs]
    states, weights = rest[: len(outputs) - 1], [weight, *rest[len(outputs) - 1 :]]
    shape = main.shape(outputs[0])
    empty = main.add("FILL", main.add_integers(*shape), main.add_constant(np.array(0, np.float32)), shape=shape)
    computed = [index for index in weights if not main.is_constant(index)]
    carried = [main.add_integer(0), inputs, empty, *states, *computed]
    name = f"loop_{(len(model.subgraphs) - 1) // 2}"
    _add_condition(main, carried, f"{name}_condition", shape[0])
    body = _Graph.like(main, carried, name)
    inner = dict(zip(carried, body.subgraph.inputs, strict=True))
    parts = [inner[index] if index in computed else body.copy_constant(main, index) for index in weights]
    _fill_body(body, cell, parts, len(states), shape[0], reverse=reverse)
    results = [main.add_tensor("unused", main.shape(index), main.dtype(index)) for index in carried]
    results[2 : 2 + len(outputs)] = outputs
    last = len(model.subgraphs) - 1
    main.add_operator("WHILE", carried, results, condSubgraphIndex=last - 1, bodySubgraphIndex=last)


def _add_condition(main: _Graph, carried: Sequence[int], name: str, steps: int) -> None:
    """Add the subgraph that says whether another step follows."""
    condition = _Graph.like(main, carried, name)
    step = condition.subgraph.inputs[0]
    condition.subgraph.outputs = [condition.add("LESS", step, condition.add_integer(steps), dtype="bool")]


def _fill_body(body: _Graph, cell: str, weights: Sequence[int], count: int, steps: int, *, reverse: bool) -> None:
    """Add what one step does: read, compute, write, count.

    Args:
        body: a subgraph whose inputs are what the loop carries.
        cell: as in `recurrent.recurrence`.
        weights: recurrent weights, and their bias if there is one.
        count: how many states there are.
        steps: of the whole loop.
        reverse: whether step 0 is the last one.
    """
    step, inputs, outputs, *others = body.subgraph.inputs
    states, computed = others[:count], others[count:]
    place = body.add("SUB", body.add_integer(steps - 1), step, dtype="int32") if reverse else step
    _, batch, width = body.shape(inputs)
    projected = body.add("GATHER", inputs, place, shape=[batch, width], axis=0)
    product = body.add("FULLY_CONNECTED", states[0], *weights, shape=[batch, width])
    states = _CELLS[cell](body, projected, product, *states)
    hidden = body.shape(states[0])
    row = body.add("RESHAPE", states[0], body.add_integers(1, *hidden), shape=[1, *hidden], newShape=[1, *hidden])
    begin = body.add("MUL", body.add_integers(1, 0, 0), place, dtype="int32")
    written = body.add("DYNAMIC_UPDATE_SLICE", outputs, row, begin)
    following = body.add("ADD", step, body.add_integer(1), dtype="int32")
    body.subgraph.outputs = [following, inputs, written, *states, *computed]


def _lstm(body: _Graph, projected: int, product: int, hidden: int, cell: int) -> list[int]:
    write, keep, candidate, read = body.split(body.add("ADD", projected, product), 4)
    kept = body.add("MUL", body.add("LOGISTIC", keep), cell)
    written = body.add("MUL", body.add("LOGISTIC", write), body.add("TANH", candidate))
    cell = body.add("ADD", kept, written)
    return [body.add("MUL", body.add("LOGISTIC", read), body.add("TANH", cell)), cell]


def _gru(body: _Graph, projected: int, product: int, hidden: int) -> list[int]:
    parts = zip(body.split(projected, 3), body.split(product, 3), strict=True)
    (reset, own_reset), (keep, own_keep), (candidate, own) = parts
    own = body.add("MUL", body.add("LOGISTIC", body.add("ADD", reset, own_reset)), own)
    candidate = body.add("TANH", body.add("ADD", candidate, own))
    keep = body.add("LOGISTIC", body.add("ADD", keep, own_keep))
    return [body.add("ADD", candidate, body.add("MUL", keep, body.add("SUB", hidden, candidate)))]


def _rnn_tanh(body: _Graph, projected: int, product: int, hidden: int) -> list[int]:
    return [body.add("TANH", body.add("ADD", projected, product))]


def _rnn_relu(body: _Graph, projected: int, product: int, hidden: int) -> list[int]:
    return [body.add("RELU", body.add("ADD", projected, product))]


_CELLS: dict[str, Callable[..., list[int]]] = {
    "lstm": _lstm,
    "gru": _gru,
    "rnn_tanh": _rnn_tanh,
    "rnn_relu": _rnn_relu,
}


def _drop_unused_tensors(model: Any) -> None:
    """Take the main graph's tensors away that only the recurrences used."""
    graph, (signature,) = model.subgraphs[0], model.signatureDefs
    lists = [values for operator in graph.operators for values in (operator.inputs, operator.outputs)]
    used = sorted({int(index) for values in (*lists, graph.inputs, graph.outputs) for index in values if index >= 0})
    new = {old: position for position, old in enumerate(used)} | {-1: -1}
    graph.tensors = [graph.tensors[index] for index in used]
    for part in (graph, *graph.operators):
        part.inputs = np.array([new[int(index)] for index in part.inputs], np.int32)
        part.outputs = np.array([new[int(index)] for index in part.outputs], np.int32)
    for port in (*signature.inputs, *signature.outputs):
        port.tensorIndex = new[port.tensorIndex]


def _drop_unused_codes(model: Any) -> None:
    """Take the custom operators' codes away, which a runtime would look for."""
    codes = model.operatorCodes
    kept = [index for index, code in enumerate(codes) if not (code.customCode or b"").startswith(CODE.encode())]
    new = {old: position for position, old in enumerate(kept)}
    model.operatorCodes = [codes[index] for index in kept]
    for operator in (operator for graph in model.subgraphs for operator in graph.operators):
        operator.opcodeIndex = new[operator.opcodeIndex]
