"""Choose which operators of a TFLite graph are worth running in int8.

LiteRT's int8 is the fastest there is where it carries the arithmetic, and slower than float where it is everywhere:
each border between float and int8 is a pass over memory, and softmax, layer norm and residual sums of transformers
lose accuracy besides. So: what multiplies by weights is quantized; what only moves or pools values is quantized where
it lies between such operators; a sum is quantized where it adds up convolutions (the residual of an image network).
Masks, softmax, layer norm and products of two activations stay float.
"""

from __future__ import annotations

import fnmatch
import math
from dataclasses import dataclass
from typing import Any

from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from edgefuse.export.tflite.file import unpack
from edgefuse.quantize.schemes import SMALLEST_PRODUCT


@dataclass(frozen=True)
class Operator:
    """One operator: its kind in the schema (`CONV_2D`), its tensors, and the unique name of its first output."""

    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    name: str


class TfliteGraph:
    """One graph of a file: the main one, or the condition or body of a loop.

    Args:
        data: the file.
        index: of the graph; 0 is the main one.

    Attributes:
        operators: in the order of execution.
        names: tensor names by index.
        loops: of the main graph, all other graphs of the file.
    """

    def __init__(self, data: bytes, index: int = 0) -> None:
        model = unpack(data)
        graph = model.subgraphs[index]
        self.names = [tensor.name.decode() for tensor in graph.tensors]
        self._is_float = [tensor.type == schema.TensorType.FLOAT32 for tensor in graph.tensors]
        self._widths = [
            1 if tensor.shape is None or not len(tensor.shape) else int(tensor.shape[-1]) for tensor in graph.tensors
        ]
        self._numbers = [
            1 if tensor.shape is None else math.prod(int(size) for size in tensor.shape) for tensor in graph.tensors
        ]
        self._is_constant = [model.buffers[tensor.buffer].data is not None for tensor in graph.tensors]
        self.loops = tuple(TfliteGraph(data, other) for other in range(1, len(model.subgraphs)) if index == 0)
        self.operators = tuple(self._operator(model, operator) for operator in graph.operators)
        self._makers = {index: operator for operator in self.operators for index in operator.outputs}
        self._users: dict[int, list[Operator]] = {}
        for operator in self.operators:
            for index in operator.inputs:
                self._users.setdefault(index, []).append(operator)

    def _operator(self, model: Any, operator: Any) -> Operator:
        kind = str(flatbuffer_utils.opcode_to_name(model, operator.opcodeIndex))
        inputs = tuple(int(index) for index in operator.inputs if index >= 0)
        outputs = tuple(int(index) for index in operator.outputs)
        return Operator(kind, inputs, outputs, self.names[outputs[0]])

    def activations(self, operator: Operator) -> tuple[int, ...]:
        """Return the float inputs of an operator that are computed, not constant."""
        return tuple(i for i in operator.inputs if self._is_float[i] and not self._is_constant[i])

    def holds_weights(self, operator: Operator) -> bool:
        """Tell whether the second input, weights or a table, is a float constant."""
        second = operator.inputs[1] if len(operator.inputs) > 1 else None
        return second is not None and self._is_float[second] and self._is_constant[second]

    def is_small(self, operator: Operator) -> bool:
        """Tell whether a matrix product has too few weights for int8 to gain: its noise then costs more than it."""
        return operator.kind == "FULLY_CONNECTED" and self._numbers[operator.inputs[1]] < SMALLEST_PRODUCT

    def row(self, lookup: Operator) -> int:
        """Return how many numbers a row of a lookup's table has."""
        return self._widths[lookup.inputs[1]]

    def maker(self, tensor: int) -> Operator | None:
        """Return the operator that makes a tensor, or None for an input of the graph."""
        return self._makers.get(tensor)

    def users(self, operator: Operator) -> list[Operator]:
        """Return the operators that use what an operator makes."""
        return [user for index in operator.outputs for user in self._users.get(index, [])]


CONVOLUTIONS = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D"})
WEIGHTED = CONVOLUTIONS | {"FULLY_CONNECTED"}
DYNAMIC = frozenset({"CONV_2D", "FULLY_CONNECTED"})
INT4 = frozenset({"FULLY_CONNECTED"})
TABLES = frozenset({"EMBEDDING_LOOKUP"})
_CARRIERS = frozenset({"RESHAPE", "TRANSPOSE", "PAD", "MAX_POOL_2D", "AVERAGE_POOL_2D", "MEAN", "CONCATENATION"})
_SUMS = frozenset({"ADD"})


def weighted(
    graph: TfliteGraph, kinds: frozenset[str], exclude: tuple[str, ...], *, small: bool = False
) -> tuple[Operator, ...]:
    """Return the operators of some kinds that hold constant weights, but for those whose kind or name is excluded.

    Args:
        graph: of the file.
        kinds: of operators.
        exclude: patterns of kinds and names.
        small: whether small matrix products count, as in loops, which run them many times.
    """
    return tuple(
        operator
        for operator in graph.operators
        if operator.kind in kinds
        and graph.holds_weights(operator)
        and not _is_excluded(operator, exclude)
        and (small or not graph.is_small(operator))
    )


def in_loops(graph: TfliteGraph, exclude: tuple[str, ...]) -> tuple[Operator, ...]:
    """Return the matrix products of recurrent layers by constant weights, but for those that are excluded.

    A scale found in calibration would round a state anew in every step: such products get ranges in every run.
    """
    return tuple(operator for loop in graph.loops for operator in weighted(loop, INT4, exclude, small=True))


def static(graph: TfliteGraph, exclude: tuple[str, ...] = ()) -> tuple[Operator, ...]:
    """Return the operators to run in int8 with ranges from calibration, in the order of execution."""
    seeds = set(weighted(graph, WEIGHTED, exclude))
    others = {
        operator
        for operator in graph.operators
        if operator.kind in _CARRIERS | _SUMS and graph.activations(operator) and not _is_excluded(operator, exclude)
    }
    chosen = seeds | others
    while lost := {operator for operator in chosen & others if not _is_between(graph, operator, chosen)}:
        chosen -= lost
    return tuple(operator for operator in graph.operators if operator in chosen)


def _is_between(graph: TfliteGraph, operator: Operator, chosen: set[Operator]) -> bool:
    """Tell whether an operator takes int8 values only and gives them to int8 operators only."""
    makers = [graph.maker(index) for index in graph.activations(operator)]
    users = graph.users(operator)
    if not users or not all(maker in chosen for maker in makers) or not all(user in chosen for user in users):
        return False
    if operator.kind in _SUMS:
        return len(makers) > 1 and all(maker is not None and maker.kind != "FULLY_CONNECTED" for maker in makers)
    return True


def _is_excluded(operator: Operator, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(text, pattern) for pattern in patterns for text in (operator.kind, operator.name))
