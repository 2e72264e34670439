"""The operations of an ONNX file and the sizes of the tensors that they read and write.

Graphs are counted as ONNX Runtime runs them: quantize/dequantize pairs around an operator make it an integer one and
vanish, and an activation, a bias or a scale behind a product is part of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass
from onnxscript.optimizer import fold_constants

from edgefuse.export.cost_graph import CostGraph, Family, Operation
from edgefuse.export.onnx.shapes import complete_shapes
from edgefuse.stages.onnx.products import macs, shape_of

_VIEWS = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "DequantizeLinear"})
_TABLES = frozenset({"Gather", "GatherBlockQuantized"})
_FAMILIES: Mapping[str, Family] = {
    **dict.fromkeys(("LayerNormalization", "SkipLayerNormalization", "RMSNormalization"), "norm"),
    **dict.fromkeys(("SimplifiedLayerNormalization", "InstanceNormalization", "GroupNormalization"), "norm"),
    **dict.fromkeys(("LpNormalization",), "norm"),
    **dict.fromkeys(("Softmax", "LogSoftmax"), "softmax"),
    **dict.fromkeys(("Gelu", "FastGelu", "QuickGelu", "BiasGelu", "Erf", "Tanh", "Sigmoid", "HardSwish"), "curve"),
    **dict.fromkeys(("Swish", "Mish", "Elu", "Exp", "Log"), "curve"),
    **dict.fromkeys(("Add", "Sum", "Sub", "Mul", "Div"), "sum"),
    **dict.fromkeys(("ReduceMean", "ReduceSum", "GlobalAveragePool", "AveragePool", "MaxPool"), "pool"),
    **dict.fromkeys(("Conv", "ConvTranspose"), "convolution"),
}


def read(data: bytes, shapes: Mapping[str, tuple[int, ...]]) -> CostGraph:
    """Return the operations of a file.

    Args:
        data: an ONNX file without external data.
        shapes: of the inputs, by name; they replace open dimensions, which are 1 otherwise.
    """
    model = ir.from_proto(onnx.load_model_from_string(data))
    stored = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value)
    _fix_shapes(model.graph, shapes)
    if any(node.op_type == "Shape" for node in model.graph):  # what follows from them is known now
        fold_constants(model, onnx_shape_inference=True)
    infer = ShapeInferencePass(check_type=False, strict_mode=False)
    infer(model)
    while complete_shapes(model.graph):
        infer(model)
    return _Reader(model.graph).result(stored)


def _fix_shapes(graph: ir.Graph, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Close the open dimensions of the inputs, and forget what was inferred from them."""
    for value in graph.inputs:
        if value.shape is not None:
            known = shapes.get(value.name or "", (1,) * len(value.shape))
            value.shape = ir.Shape(
                [d if isinstance(d, int) else size for d, size in zip(value.shape, known, strict=True)]
            )
    for node in graph:
        for value in node.outputs:
            if value.shape is not None and not value.shape.is_static():
                value.shape = None


class _Reader:
    """Walks a graph in the order of execution."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._names: dict[ir.Value, str] = {}
        self._same: dict[ir.Value, ir.Value] = {}
        self._values: dict[str, ir.Value] = {}
        self._constants: set[ir.Value] = set(graph.initializers.values())
        self._operations: list[Operation] = []
        self._makers: dict[str, int] = {}
        self._uncounted: dict[str, None] = {}

    def result(self, stored: int) -> CostGraph:
        """Read the whole graph of a file with so many bytes of constants."""
        for node in self._graph:
            self._read(node)
        inputs, outputs = map(self._tensors, (self._graph.inputs, self._graph.outputs))
        return CostGraph(
            sizes={name: _bytes(value) for name, value in self._values.items()},
            constants=frozenset(name for name, value in self._values.items() if value in self._constants),
            inputs=inputs,
            outputs=outputs,
            operations=tuple(self._operations),
            weight_bytes=stored,
            uncounted=tuple(self._uncounted),
        )

    def _read(self, node: ir.Node) -> None:
        inputs = [value for value in node.inputs if value is not None]
        if node.op_type in _VIEWS:
            self._same[node.outputs[0]] = self._whole(inputs[0])
        elif all(value in self._constants for value in inputs):
            self._constants.update(node.outputs)  # computed once, when the file is opened
        elif any(_size(value) is None for value in (*inputs, *node.outputs)) or _has_graphs(node):
            self._uncounted[node.op_type] = None
        elif not self._absorbed(node, inputs):
            self._add(node, inputs)

    def _add(self, node: ir.Node, inputs: list[ir.Value]) -> None:
        reads, writes = self._tensors(inputs), self._tensors(v for v in node.outputs if v.name)
        integer = any(_is_integer(self._whole(value)) for value in inputs[:2]) and node.op_type not in _TABLES
        half = not integer and node.outputs[0].dtype == ir.DataType.FLOAT16
        name = node.name or writes[0]
        table = reads[0] if node.op_type in _TABLES and self._whole(inputs[0]) in self._constants else ""
        self._makers |= dict.fromkeys(writes, len(self._operations))
        family = _FAMILIES.get(node.op_type, "")
        self._operations.append(
            Operation(node.op_type, name, reads, writes, macs(node), integer, table, half, family=family)
        )

    def _absorbed(self, node: ir.Node, inputs: list[ir.Value]) -> bool:
        """Let the operation before do what a node does, if it can and nothing else sees the value between."""
        data = next((v for v in inputs if self._tensor(v) in self._makers), None)
        if data is None or len(tuple(data.uses())) != 1 or data.is_graph_output():
            return False
        index = self._makers[self._tensor(data)]
        maker = self._operations[index]
        others = [value for value in inputs if value is not data]
        if not _absorbs(maker, node, data, others):
            return False
        writes = self._tensors(node.outputs)
        self._operations[index] = replace(maker, reads=maker.reads + self._tensors(others), writes=writes)
        self._makers |= dict.fromkeys(writes, index)
        return True

    def _whole(self, value: ir.Value) -> ir.Value:
        """Return the tensor that a value is a view of."""
        return self._same.get(value, value)

    def _tensor(self, value: ir.Value) -> str:
        whole = self._whole(value)
        name = whole.name or ""
        self._values[name] = whole
        return name

    def _tensors(self, values: object) -> tuple[str, ...]:
        return tuple(self._tensor(value) for value in values)  # type: ignore[attr-defined]


def _absorbs(maker: Operation, node: ir.Node, data: ir.Value, others: list[ir.Value]) -> bool:
    if node.op_type == "QuantizeLinear":
        return maker.integer
    if maker.mac == 0 or len(maker.writes) != 1:
        return False
    if node.op_type in ("Add", "Mul"):  # a bias or a scale: one number, or one per channel of the last axis
        channels = shape_of(data)[-1] if shape_of(data) else 1
        return all((_size(value) or 0) <= channels for value in others)
    return node.op_type in ("Relu", "Clip") or (node.op_type == "Cast" and data.dtype == ir.DataType.INT32)


def _has_graphs(node: ir.Node) -> bool:
    return any(
        attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for attribute in node.attributes.values()
    )


def _size(value: ir.Value) -> int | None:
    """Return the number of elements, or None if it is not known."""
    return math.prod(shape_of(value)) if value.shape is not None and value.shape.is_static() else None


def _bytes(value: ir.Value) -> float:
    return (_size(value) or 0) * (value.dtype.bitwidth / 8 if value.dtype is not None else 4)


def _is_integer(value: ir.Value) -> bool:
    return value.dtype is not None and value.dtype.is_integer() and value.dtype.bitwidth <= 8
