"""The operations of a TFLite file and the sizes of the tensors that they read and write."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from edgefuse.export.cost_graph import CostGraph, Family, Operation
from edgefuse.export.tflite.file import unpack

_VIEWS = frozenset({"RESHAPE", "SQUEEZE", "EXPAND_DIMS"})
_TABLES = {"EMBEDDING_LOOKUP": 1, "GATHER": 0}
_FAMILIES: Mapping[str, Family] = {
    **dict.fromkeys(("RSQRT", "SQUARED_DIFFERENCE", "L2_NORMALIZATION"), "norm"),
    **dict.fromkeys(("SOFTMAX", "LOG_SOFTMAX"), "softmax"),
    **dict.fromkeys(("GELU", "TANH", "LOGISTIC", "HARD_SWISH", "ELU", "EXP", "LOG"), "curve"),
    **dict.fromkeys(("ADD", "SUB", "MUL", "DIV"), "sum"),
    **dict.fromkeys(("MEAN", "SUM", "AVERAGE_POOL_2D", "MAX_POOL_2D"), "pool"),
    **dict.fromkeys(("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV"), "convolution"),
}
_REGIONS = frozenset({"WHILE", "IF", "CALL", "CALL_ONCE"})
_TYPE = schema.TensorType
_BITS = {
    **dict.fromkeys((_TYPE.FLOAT64, _TYPE.INT64, _TYPE.UINT64), 64),
    **dict.fromkeys((_TYPE.FLOAT16, _TYPE.BFLOAT16, _TYPE.INT16, _TYPE.UINT16), 16),
    **dict.fromkeys((_TYPE.INT8, _TYPE.UINT8, _TYPE.BOOL), 8),
    **dict.fromkeys((_TYPE.INT4, _TYPE.UINT4), 4),
    _TYPE.INT2: 2,
}
_SMALL_INTEGERS = frozenset({_TYPE.INT8, _TYPE.UINT8, _TYPE.INT4, _TYPE.UINT4, _TYPE.INT2})


def read(data: bytes, shapes: Mapping[str, tuple[int, ...]]) -> CostGraph:
    """Return the operations of a file's main graph; a loop is one of them, as a recurrent layer is in ONNX.

    Args:
        data: a TFLite file; its shapes are static.
        shapes: not needed here.
    """
    return _Reader(unpack(data)).result()


class _Reader:
    """Walks a graph in the order of execution. A tensor is called by its index, one of a loop by its loop's besides."""

    def __init__(self, model: Any, graph: int = 0) -> None:
        self._model = model
        self._graph = model.subgraphs[graph]
        self._prefix = f"{graph}:" if graph else ""
        self._sizes: dict[str, float] = {}
        self._tensors = self._graph.tensors
        self._constants = {i for i, t in enumerate(self._tensors) if model.buffers[t.buffer].data is not None}
        self._same: dict[int, int] = {}
        self._operations: list[Operation] = []
        self._uncounted: dict[str, None] = {}
        self._loop_constants: frozenset[str] = frozenset()

    def result(self) -> CostGraph:
        """Read the whole graph."""
        self._sizes |= {self._prefix + str(index): self._bytes(index) for index in range(len(self._tensors))}
        for operator in self._graph.operators:
            self._read(operator)
        buffers = self._model.buffers
        tensors = [tensor for graph in self._model.subgraphs for tensor in graph.tensors]
        stored = {tensor.buffer for tensor in tensors if buffers[tensor.buffer].data is not None}
        return CostGraph(
            sizes=self._sizes,
            constants=frozenset(self._prefix + str(index) for index in self._constants) | self._loop_constants,
            inputs=self._named(self._graph.inputs),
            outputs=self._named(self._graph.outputs),
            operations=tuple(self._operations),
            weight_bytes=sum(len(buffers[buffer].data) for buffer in stored),
            uncounted=tuple(self._uncounted),
        )

    def _read(self, operator: Any) -> None:
        kind = self._kind(operator)
        inputs = [int(index) for index in operator.inputs if index >= 0]
        outputs = [int(index) for index in operator.outputs]
        if kind in _VIEWS:
            self._same[outputs[0]] = self._same.get(inputs[0], inputs[0])
            return
        if inputs and self._constants.issuperset(inputs):
            self._constants.update(outputs)  # computed once, when the file is opened
            return
        steps = self._steps(operator) if kind == "WHILE" else 0
        if steps:
            self._read_loop(operator, inputs, outputs, steps)
            return
        if kind in _REGIONS:
            self._uncounted[kind] = None
            return
        reads = self._named(inputs)
        position = _TABLES.get(kind)
        table = position is not None and inputs[position] in self._constants
        name = self._tensors[outputs[0]].name.decode()
        integer = self._tensors[inputs[0]].type in _SMALL_INTEGERS or self._has_integer_weights(kind, inputs)
        self._operations.append(
            Operation(
                kind,
                name,
                reads,
                self._named(outputs),
                self._mac(kind, operator, inputs, outputs),
                integer,
                reads[position] if table and position is not None else "",
                family=_FAMILIES.get(kind, ""),
            )
        )

    def _read_loop(self, operator: Any, inputs: list[int], outputs: list[int], steps: int) -> None:
        """Add a loop as one operation, its products once per step, its weights and what it carries once."""
        graph = operator.builtinOptions.bodySubgraphIndex
        carried, body = self._model.subgraphs[graph], _Reader(self._model, graph).result()
        self._sizes |= body.sizes
        self._loop_constants |= body.constants
        self._uncounted |= dict.fromkeys(body.uncounted)
        kept = [
            i for i, (before, after) in enumerate(zip(carried.inputs, carried.outputs, strict=True)) if before == after
        ]
        self._same |= {outputs[i]: self._same.get(inputs[i], inputs[i]) for i in kept}
        written = [index for i, index in enumerate(outputs) if i not in kept]
        weights = sorted({name for operation in body.operations for name in operation.reads} & body.constants)
        self._operations.append(
            Operation(
                "WHILE",
                self._tensors[outputs[0]].name.decode(),
                (*self._named(inputs), *weights),
                self._named(written),
                steps * body.mac,
                any(operation.integer for operation in body.operations if operation.mac),
            )
        )

    def _steps(self, operator: Any) -> int:
        """Return how often a loop runs that counts from 0 in ones up to a constant; 0 for any other."""
        options = operator.builtinOptions
        condition, body = (self._model.subgraphs[i] for i in (options.condSubgraphIndex, options.bodySubgraphIndex))
        kinds = [self._kind(test) for test in condition.operators]
        limit = self._integer(condition, condition.operators[0].inputs[1]) if kinds == ["LESS"] else None
        if limit is None or int(condition.operators[0].inputs[0]) not in list(condition.inputs):
            return 0
        counter = list(condition.inputs).index(condition.operators[0].inputs[0])
        makers = {int(index): maker for maker in body.operators for index in maker.outputs}
        count = makers.get(int(body.outputs[counter]))
        if count is None or self._kind(count) != "ADD" or int(count.inputs[0]) != int(body.inputs[counter]):
            return 0
        from_zero = self._integer(self._graph, operator.inputs[counter]) == 0
        return limit if from_zero and self._integer(body, count.inputs[1]) == 1 else 0

    def _kind(self, operator: Any) -> str:
        return str(flatbuffer_utils.opcode_to_name(self._model, operator.opcodeIndex))

    def _integer(self, graph: Any, index: int) -> int | None:
        """Return a constant of one int32, or None for any other tensor."""
        tensor = graph.tensors[int(index)]
        data = self._model.buffers[tensor.buffer].data
        if data is None or tensor.type != _TYPE.INT32 or len(data) != np.dtype(np.int32).itemsize:
            return None
        return int(np.frombuffer(bytes(data), np.int32)[0])

    def _has_integer_weights(self, kind: str, inputs: list[int]) -> bool:
        return kind not in _TABLES and len(inputs) > 1 and self._tensors[inputs[1]].type in _SMALL_INTEGERS

    def _named(self, indices: Any) -> tuple[str, ...]:
        return tuple(self._prefix + str(self._same.get(int(index), int(index))) for index in indices)

    def _shape(self, index: int) -> tuple[int, ...]:
        shape = self._tensors[index].shape
        return () if shape is None else tuple(int(size) for size in shape)

    def _count(self, index: int) -> int:
        return math.prod(self._shape(index))

    def _bytes(self, index: int) -> float:
        return self._count(index) * _BITS.get(self._tensors[index].type, 32) / 8

    def _mac(self, kind: str, operator: Any, inputs: list[int], outputs: list[int]) -> int:
        """Return the multiply-accumulates of an operator; weights of convolutions are [out, height, width, in]."""
        if kind == "CONV_2D":
            return self._count(outputs[0]) * math.prod(self._shape(inputs[1])[1:])
        if kind == "DEPTHWISE_CONV_2D":
            return self._count(outputs[0]) * math.prod(self._shape(inputs[1])[1:3])
        if kind == "TRANSPOSE_CONV":
            return self._count(inputs[2]) * math.prod(self._shape(inputs[1])[:3])
        if kind == "FULLY_CONNECTED":
            return self._count(outputs[0]) * self._shape(inputs[1])[-1]
        if kind == "BATCH_MATMUL":
            return self._count(outputs[0]) * self._shape(inputs[0])[-2 if operator.builtinOptions.adjX else -1]
        return 0
