"""A read-only view of a TFLite file's graph: operators, who makes a tensor and who uses it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from edgefuse.export.tflite_interface import unpack


@dataclass(frozen=True)
class Operator:
    """One operator.

    Attributes:
        kind: the schema's name, such as `CONV_2D`.
        inputs: tensor indices, without optional inputs that are not given.
        outputs: tensor indices.
        name: the name of its first output; unique in a file of ours.
    """

    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    name: str


class TfliteGraph:
    """The main graph of a file.

    Attributes:
        operators: in the order of execution.
        names: tensor names by index.
    """

    def __init__(self, data: bytes) -> None:
        model = unpack(data)
        (graph,) = model.subgraphs
        self.names = [tensor.name.decode() for tensor in graph.tensors]
        self._is_float = [tensor.type == schema.TensorType.FLOAT32 for tensor in graph.tensors]
        self._is_constant = [model.buffers[tensor.buffer].data is not None for tensor in graph.tensors]
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

    def maker(self, tensor: int) -> Operator | None:
        """Return the operator that makes a tensor, or None for an input of the graph."""
        return self._makers.get(tensor)

    def users(self, operator: Operator) -> list[Operator]:
        """Return the operators that use what an operator makes."""
        return [user for index in operator.outputs for user in self._users.get(index, [])]
