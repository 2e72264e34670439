"""Check the graphs of a TFLite file: that operators can run one after another, in bounded memory and time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgefuse.bundle.refusal import RefusedError
from edgefuse.bundle.tflite.call import Call
from edgefuse.bundle.tflite.loops import check_region, loop, region, steps
from edgefuse.bundle.tflite.operators import check_operator
from edgefuse.bundle.tflite.products import multiplications, scratch_elements
from edgefuse.bundle.tflite.schema import Graph, Model

MAX_LIVE_BYTES = 2**30
"""Of all tensors that are computed and still needed at one moment."""

MAX_WEIGHT_BYTES = 2**28
"""Of constants that operators unpack for themselves, beyond eight times the file's size."""

MAX_WORK = 2**38
"""Of multiplications and copied numbers of one run: seconds of a fast core."""

MAX_DEPTH = 8
"""Of loops in loops."""

_DISPATCH = 2**12  # an operator costs as much as this many multiplications, however little it does
_SCRATCH_BYTES = 4  # of a number that an operator sets down for itself


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of one run of a graph: its computed tensors at the worst moment, and its work."""

    live_bytes: int
    work: int


def check_model(model: Model) -> Cost:
    """Check all graphs of a file and return the cost of the main one, or raise `RefusedError`."""
    _check_unpacked(model)
    calls = [_check_graph(model, graph) for graph in model.graphs]
    walk = _Walk(model, calls)
    cost = walk.cost(0, depth=0)
    if len(walk.seen) < len(model.graphs):
        raise RefusedError("has a graph that nothing runs")
    if cost.live_bytes > MAX_LIVE_BYTES:
        raise RefusedError(f"needs {cost.live_bytes} bytes at once, where {MAX_LIVE_BYTES} are the most")
    if cost.work > MAX_WORK:
        raise RefusedError(f"needs {cost.work} multiplications in one run, where {MAX_WORK} are the most")
    return cost


def _check_unpacked(model: Model) -> None:
    """Check how much of constants all operators read, before any of them is looked at."""
    unpacked, most = 0, 8 * len(model.data) + MAX_WEIGHT_BYTES
    for graph in model.graphs:
        sizes = [tensor.size_bytes if tensor.constant else 0 for tensor in graph.tensors]
        for operator in graph.operators:
            unpacked += sum(sizes[index] for index in operator.inputs if 0 <= index < len(sizes))
    if unpacked > most:
        raise RefusedError(f"has operators that unpack {unpacked} bytes of constants")


def _check_graph(model: Model, graph: Graph) -> list[Call]:
    """Check that each operator reads what is there by then, and that each tensor is made once."""
    count = len(graph.tensors)
    made = {index for index, tensor in enumerate(graph.tensors) if tensor.constant}
    for index in graph.inputs:
        if not 0 <= index < count or index in made:
            raise RefusedError(f"has a graph with the input {index} of {count} tensors, twice or as a constant")
        made.add(index)
    calls = []
    for operator in graph.operators:
        for index in operator.inputs:
            if index not in made and index != -1:
                raise RefusedError(f"has an operator that reads the tensor {index} of {count} before it is made")
        for index in operator.outputs:
            if not 0 <= index < count or index in made:
                raise RefusedError(f"has an operator that makes the tensor {index} of {count}, again or out of range")
            made.add(index)
        calls.append(check_operator(model, graph, operator))
    if not set(graph.outputs) <= made:
        raise RefusedError(f"has a graph with an output of {list(graph.outputs)} that nothing makes")
    return calls


class _Walk:
    """Follows operators into the graphs that they run, each of which belongs to one of them."""

    def __init__(self, model: Model, calls: Sequence[Sequence[Call]]) -> None:
        self._model = model
        self._calls = calls
        self.seen: set[int] = set()

    def cost(self, index: int, depth: int) -> Cost:
        """Return the cost of one run of a graph."""
        if not 0 <= index < len(self._calls) or index in self.seen or depth > MAX_DEPTH:
            raise RefusedError(f"has an operator that runs the graph {index} of {len(self._calls)}, or loops too deep")
        self.seen.add(index)
        graph, calls = self._model.graphs[index], self._calls[index]
        inner = [self._inner(call, depth) for call in calls]
        work = sum(_work(call) + cost.work for call, cost in zip(calls, inner, strict=True))
        return Cost(_live_bytes(graph, calls, inner), work)

    def _inner(self, call: Call, depth: int) -> Cost:
        """Return what the graphs take that an operator runs."""
        combined = region(call)
        if combined is not None:
            cost = self.cost(combined, depth + 1)
            check_region(call, self._model.graphs[combined], self._calls[combined])
            return Cost(cost.live_bytes, 0)
        found = loop(call)
        if found is None:
            return Cost(0, 0)
        costs = [self.cost(index, depth + 1) for index in found]
        condition, body = ((self._model.graphs[index], self._calls[index]) for index in found)
        count = steps(call, condition, body)
        return Cost(sum(each.live_bytes for each in costs), (count + 1) * sum(each.work for each in costs))


def _work(call: Call) -> int:
    written = sum(output.elements for output in call.outputs) * multiplications(call)
    return _DISPATCH + written + sum(tensor.elements for tensor in call.inputs if tensor)


def _live_bytes(graph: Graph, calls: Sequence[Call], inner: Sequence[Cost]) -> int:
    """Return the most that is live at once: a tensor from the operator that makes it to the last that reads it."""
    last = {index: position for position, each in enumerate(graph.operators) for index in each.inputs}
    last |= dict.fromkeys(graph.outputs, len(calls))
    live = {index: graph.tensors[index].size_bytes for index in graph.inputs}
    held = most = sum(live.values())
    for position, (operator, call, cost) in enumerate(zip(graph.operators, calls, inner, strict=True)):
        for index in operator.outputs:
            live[index] = graph.tensors[index].size_bytes
            held += live[index]
        most = max(most, held + cost.live_bytes + _SCRATCH_BYTES * scratch_elements(call))
        for index in {*operator.inputs, *operator.outputs}:
            if last.get(index, position) <= position:
                held -= live.pop(index, 0)
    return most
