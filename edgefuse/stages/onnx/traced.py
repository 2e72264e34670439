"""An ONNX graph in the form in which stages are found: a node per operator, each with what it gave in one run.

The shapes of all values are seen in a run of ONNX Runtime at the largest sizes: inference from the graph alone misses
what follows from numbers, and operators that are ONNX Runtime's own.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch.fx import Graph, Node

from edgefuse.errors import ModelError, cited
from edgefuse.runtime.backends.backend import SessionOptions
from edgefuse.runtime.backends.onnx.api import onnxruntime
from edgefuse.runtime.backends.onnx.session import create, session_options
from edgefuse.stages.found.calling import Called
from edgefuse.stages.found.costs import Foreign
from edgefuse.stages.found.traced import Traced
from edgefuse.stages.onnx.ports import Taken
from edgefuse.stages.onnx.products import macs
from edgefuse.stages.stage import Array, Feeds

ONE_SAMPLE = "an ONNX file is taken apart at one sample"

_FEWEST_WEIGHTS = 5
"""Numbers in a constant that counts as a parameter: what has fewer scales the channels of a picture."""

_SPECTRA = ("DFT", "STFT")


@dataclass(frozen=True)
class OnnxTraced:
    """A graph as it is cut.

    Attributes:
        traced: the nodes.
        values: of the ONNX graph, by node.
        model: that the graph is of.
    """

    traced: Traced
    values: Mapping[Node, ir.Value]
    model: ir.Model


def trace(model: ir.Model, taken: Sequence[Taken], module: Called, feeds: Feeds) -> OnnxTraced:
    """Return a model as a graph in which stages are found.

    Args:
        model: with the ports of its spec.
        taken: what its inputs are.
        module: that stands for the model.
        feeds: of the largest sizes, by port.

    Raises:
        ModelError: if ONNX Runtime does not run it.
    """
    return _Writer(model, taken, module, _seen(model, feeds)).written()


class _Writer:
    def __init__(self, model: ir.Model, taken: Sequence[Taken], module: Called, seen: Mapping[str, Tensor]) -> None:
        self._model = model
        self._module = module
        self._taken = {one.value.port: one.value for one in taken}
        self._seen = seen
        self._graph = Graph()
        self._nodes: dict[ir.Value, Node] = {}
        self._values: dict[Node, ir.Value] = {}
        self._state: dict[Node, Tensor] = {}

    def written(self) -> OnnxTraced:
        """Write constants, inputs, operators in their order, and results."""
        graph = self._model.graph
        for value in graph.initializers.values():
            self._constant(value)
        inputs = {self._placeholder(value): self._taken[str(value.name)] for value in graph.inputs}
        for node in graph:
            self._compute(node)
        results = {str(value.name): self._nodes[value] for value in graph.outputs}
        self._graph.output(tuple(results.values()))
        traced = Traced(
            graph=self._graph,
            module=self._module,
            taken=inputs,
            state=self._state,
            names={node: str(self._values[node].name) for node in self._state},
            results=results,
            calls={},
            unbatched=ONE_SAMPLE,
            constants=nn.Module(),
        )
        return OnnxTraced(traced, self._values, self._model)

    def _constant(self, value: ir.Value) -> None:
        node = self._placeholder(value)
        fake = node.meta["val"]
        weighs = fake.is_floating_point() and fake.numel() >= _FEWEST_WEIGHTS
        self._state[node] = nn.Parameter(fake, requires_grad=False) if weighs else fake

    def _placeholder(self, value: ir.Value) -> Node:
        node = self._graph.create_node("placeholder", f"value_{len(self._nodes)}", name=_plain(value.name))
        return self._give(node, value)

    def _give(self, node: Node, value: ir.Value) -> Node:
        self._nodes[value], self._values[node] = node, value
        node.meta["val"] = self._fake(value)
        return node

    def _fake(self, value: ir.Value) -> Tensor | None:
        if value.const_value is not None:
            return _meta(tuple(value.const_value.shape.numpy()), np.dtype(value.const_value.dtype.numpy()))
        return self._seen.get(str(value.name))

    def _compute(self, node: ir.Node) -> None:
        read = [*node.inputs, *_captured(node, self._model.graph)]
        arguments = tuple(None if value is None else self._nodes[value] for value in read)
        made = self._graph.create_node("call_function", _target(node), arguments, name=_plain(node.name))
        if len(node.outputs) == 1:
            self._give(made, node.outputs[0])
            return
        made.meta["val"] = tuple(self._fake(value) for value in node.outputs)
        for number, value in enumerate(node.outputs):
            if value.name:
                self._give(self._graph.call_function(operator.getitem, (made, number)), value)


def _target(node: ir.Node) -> Foreign:
    looks_up = node.op_type == "Gather" and node.inputs[0] is not None and node.inputs[0].is_initializer()
    return Foreign(node.op_type, macs(node), looks_up, node.op_type in _SPECTRA)


def _captured(node: ir.Node, graph: ir.Graph) -> Iterator[ir.Value]:
    """Yield what the branches of a node read of the graph around it."""
    for attribute in node.attributes.values():
        inner = [attribute.as_graph()] if attribute.type == ir.AttributeType.GRAPH else []
        for part in inner:
            for one in ir.traversal.RecursiveGraphIterator(part):
                yield from (value for value in one.inputs if value is not None and value.graph is graph)


def _plain(name: str | None) -> str:
    """Return a name as torch's graphs have them."""
    kept = "".join(letter if letter.isascii() and letter.isalnum() else "_" for letter in name or "value")
    return kept if kept[:1].isalpha() else f"n_{kept}"


def _seen(model: ir.Model, feeds: Feeds) -> dict[str, Tensor]:
    """Run a model; return what all values look like: tensors without content, by name.

    The shapes are noted in the graph, too, where products are counted.
    """
    copy = model.clone()
    given = set(copy.graph.outputs)
    computed = [value for node in copy.graph for value in node.outputs if value.name and value not in given]
    copy.graph.outputs.extend(computed)
    options = session_options(SessionOptions())
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = create(ir.to_proto(copy).SerializeToString(), ["CPUExecutionProvider"], options)
        names = [port.name for port in session.get_outputs()]
        arrays: list[Array] = session.run(names, dict(feeds))
    except Exception as error:  # ONNX Runtime's own errors have no other base
        raise ModelError(
            "ONNX Runtime does not run the ONNX file",
            got=cited(error),
            expected="answers at the largest sizes of the spec",
            fix="correct the sizes in the recipe, or export the model anew",
        ) from error
    shapes = {name: array for name, array in zip(names, arrays, strict=True) if isinstance(array, np.ndarray)}
    shapes |= dict(feeds)
    for value in [*model.graph.inputs, *(value for node in model.graph for value in node.outputs)]:
        if (array := shapes.get(str(value.name))) is not None:
            value.shape = ir.Shape(array.shape)
    return {name: _meta(array.shape, array.dtype) for name, array in shapes.items()}


def _meta(shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> Tensor:
    return torch.empty(shape, dtype=getattr(torch, str(dtype)), device="meta")
