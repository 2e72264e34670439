"""Check the graphs of an ONNX file: known operators, loops that end, and no constant that asks for endless memory."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from edgefuse.bundle.onnx.messages import Message
from edgefuse.bundle.onnx.tensors import Constant, check_tensor
from edgefuse.bundle.refusal import RefusedError

_DOMAINS = ("", "ai.onnx", "com.microsoft")
MAX_STEPS = 2**16
"""Of a loop, and of loops in loops together."""

MAX_MADE = 2**26
"""Of the numbers that a constant makes an operator write (`Expand`, `Range`, …), and of twice as many in a file."""

MAX_LISTED = 4096
"""Of integers in one attribute."""

MAX_REACH = 2**16
"""Of strides, paddings, windows and other attributes whose products with sizes must stay small."""

# Numbers of fields in onnx.proto.
_GRAPH, _TRAINING, _FUNCTION = 7, 20, 25
_NODE, _INITIALIZER, _SPARSE = 1, 5, 15
_VALUES = (11, 12, 13)
_INPUT, _OUTPUT, _OPERATOR, _ATTRIBUTE, _DOMAIN = 1, 2, 4, 5, 7
_NAME, _INTEGER, _TENSOR, _SUBGRAPH, _INTEGERS = 1, 3, 5, 6, 8
_TENSORS, _SUBGRAPHS, _SPARSE_ATTRIBUTES = 10, 11, (22, 23)
_TENSOR_NAME = 8

# Operators that write as many numbers as the product of a constant says: which input that is.
_SHAPED: Mapping[str, int] = MappingProxyType(
    {
        **{
            "ConstantOfShape": 0,
            "Expand": 1,
            "Tile": 1,
            "CenterCropPad": 1,
            "Col2Im": 1,
            "AffineGrid": 1,
            "MaxUnpool": 2,
        },
        **{"HannWindow": 0, "HammingWindow": 0, "BlackmanWindow": 0, "OneHot": 1, "DFT": 1, "Upsample": 1},
    }
)
_REACHING = frozenset(
    {
        *("kernel_shape", "strides", "dilations", "pads", "output_padding", "output_shape", "blocksize", "block_size"),
        *("hidden_size", "sample_size", "num_outputs"),
    }
)


@dataclass(frozen=True)
class _Scope:
    """What a graph may refer to by name, and how often it runs for one run of the file."""

    constants: Mapping[str, Constant]
    runs: int
    scanned: bool = False


def check_model(model: Message, data: bytes) -> None:
    """Check a ModelProto in full, or raise `RefusedError`."""
    if model.all(_TRAINING) or model.all(_FUNCTION):
        raise RefusedError("has functions of its own, or says how it is trained")
    if len(model.all(_GRAPH)) != 1:
        raise RefusedError("has no graph")
    _Walk(data).graph(model.all(_GRAPH)[0], _Scope({}, runs=1))


class _Walk:
    """Goes through a graph and those within it, in the order of execution."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._left = 2 * MAX_MADE

    def graph(self, graph: Message, scope: _Scope) -> None:
        """Check a graph; what it defines hides what is outside."""
        if graph.all(_SPARSE):
            raise RefusedError("has a sparse tensor")
        tensors = {tensor.text(_TENSOR_NAME): check_tensor(tensor, self._data) for tensor in graph.all(_INITIALIZER)}
        hidden = {value.text(_NAME) for number in _VALUES for value in graph.all(number)} - tensors.keys()
        constants = {name: each for name, each in scope.constants.items() if name not in hidden} | tensors
        for node in graph.all(_NODE):
            self._node(node, _Scope(constants, scope.runs, scope.scanned))
            outputs = node.texts(_OUTPUT)
            for name in outputs:
                constants.pop(name, None)
            if outputs and node.text(_OPERATOR) == "Constant":
                constants[outputs[0]] = self._constant(node)

    def _node(self, node: Message, scope: _Scope) -> None:
        """Check one operator, the constants that it reads and the graphs that it runs."""
        operator, domain = node.text(_OPERATOR), node.text(_DOMAIN)
        if operator == "EPContext":
            raise RefusedError("has a node 'EPContext', which loads a compiled engine")
        if domain not in _DOMAINS:
            raise RefusedError(f"has an operator {operator!a} of the unknown domain {domain!a}")
        attributes = node.all(_ATTRIBUTE)
        inputs = [scope.constants.get(name) for name in node.texts(_INPUT)]
        self._check_attributes(operator, attributes)
        self._check_sizes(operator, [each.values if each else None for each in inputs])
        graphs = [graph for each in attributes for number in (_SUBGRAPH, _SUBGRAPHS) for graph in each.all(number)]
        if graphs:
            inner = _within(operator, domain, inputs[0] if inputs else None, scope)
            for graph in graphs:
                self.graph(graph, inner)

    def _check_attributes(self, operator: str, attributes: Sequence[Message]) -> None:
        for attribute in attributes:
            name, data = attribute.text(_NAME), self._data
            for tensor in (*attribute.all(_TENSOR), *attribute.all(_TENSORS)):
                check_tensor(tensor, data)
            if any(attribute.all(number) for number in _SPARSE_ATTRIBUTES):
                raise RefusedError("has a sparse tensor")
            integers = (*attribute.signed(data, _INTEGER, 1), *attribute.signed(data, _INTEGERS, MAX_LISTED))
            if name in _REACHING and any(abs(each) > MAX_REACH for each in integers):
                raise RefusedError(f"has an operator {operator!a} whose {name} is {list(integers[:8])}")
            if name == "shape" and operator.startswith("Random"):
                self._spend(operator, math.prod(integers))

    def _check_sizes(self, operator: str, inputs: Sequence[Sequence[float] | None]) -> None:
        """Check what the constants that an operator reads make it write, where they are known."""
        first, second, third, fourth, *_ = (*inputs, None, None, None, None)
        place = _SHAPED.get(operator)
        shape = inputs[place] if place is not None and place < len(inputs) else None
        if shape is not None:
            self._spend(operator, math.prod(shape))
        elif operator == "Range" and first and second and third:
            self._spend(operator, (second[0] - first[0]) / third[0] if third[0] else math.inf)
        elif operator == "Resize":
            self._spend(operator, MAX_MADE // MAX_REACH * math.prod(third or ()))
            self._spend(operator, math.prod(fourth or ()))
        elif operator == "Pad" and second and max(map(abs, second)) > MAX_REACH:
            raise RefusedError(f"has an operator Pad with the paddings {list(second)}")

    def _spend(self, operator: str, numbers: float) -> None:
        """Count numbers that a constant makes an operator write."""
        numbers = float(min(numbers, 2**62))  # so many that they have no float, are as many as too many
        if not numbers <= MAX_MADE or self._left < numbers:
            raise RefusedError(f"has an operator {operator!a} that a constant makes write {numbers:g} numbers")
        self._left -= max(0, math.ceil(numbers))

    def _constant(self, node: Message) -> Constant:
        """Return what a node Constant holds, as far as it is known."""
        for attribute in node.all(_ATTRIBUTE):
            if attribute.all(_TENSOR):
                return check_tensor(attribute.all(_TENSOR)[0], self._data)
            found = attribute.signed(self._data, _INTEGER, 1) or attribute.signed(self._data, _INTEGERS, MAX_LISTED)
            if found:
                return Constant((len(found),), found)
        return Constant((), None)


def _within(operator: str, domain: str, first: Constant | None, scope: _Scope) -> _Scope:
    """Return the scope of the graphs that an operator runs; the steps of a loop stand in the file."""
    if domain == _DOMAINS[-1] or operator not in ("If", "Loop", "Scan"):
        raise RefusedError(f"has an operator {operator!a} that runs graphs")
    if operator == "If":
        return scope
    if operator == "Scan":
        if scope.runs > 1 or scope.scanned:
            raise RefusedError("has a Scan within a loop")
        return _Scope(scope.constants, 1, scanned=True)
    steps = first.values if first else None
    if steps is None or len(steps) != 1 or not isinstance(steps[0], int):
        raise RefusedError("has a Loop whose number of steps does not stand in the file")
    runs = scope.runs * max(1, steps[0])
    if runs > MAX_STEPS or (scope.scanned and runs > 1):
        raise RefusedError(f"has a Loop of {runs} steps, or within a Scan, where {MAX_STEPS} are the most")
    return _Scope(scope.constants, runs, scope.scanned)
