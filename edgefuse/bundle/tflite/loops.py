"""The graphs that operators of a TFLite file run: counted loops, and the one operator of a window or scatter.

The only loop is the one that counts: its condition is LESS of a carried integer and a constant, its body adds a
constant to that integer, and it starts at a constant. So the number of steps stands in the file.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgefuse.bundle.tflite.call import Call
from edgefuse.bundle.tflite.schema import Graph, Tensor

MAX_STEPS = 2**16
"""Of one loop: ten minutes of sound in frames of 10 ms."""

_CONDITION, _BODY = "cond_subgraph_index", "body_subgraph_index"
_REGIONS = {"STABLEHLO_SCATTER": "update_computation_subgraph_index", "STABLEHLO_REDUCE_WINDOW": _BODY}
_REDUCING = ("ADD", "MUL", "MAXIMUM", "MINIMUM", "LOGICAL_AND", "LOGICAL_OR")


def region(call: Call) -> int | None:
    """Return the index of the graph that combines two numbers for an operator, None where it has none."""
    return call.integer(_REGIONS[call.kind]) if call.kind in _REGIONS else None


def loop(call: Call) -> tuple[int, int] | None:
    """Return the indices of the graphs that are a loop's condition and body, None where an operator is none."""
    return (call.integer(_CONDITION), call.integer(_BODY)) if call.kind == "WHILE" else None


def check_region(call: Call, graph: Graph, calls: Sequence[Call]) -> None:
    """Check the graph that combines two numbers: one known operator, or none, which takes the second number.

    Args:
        call: the operator that runs the graph.
        graph: to check.
        calls: the operators of that graph.
    """
    kinds = [each.kind for each in calls]
    ports = [graph.tensors[index] for index in (*graph.inputs, *graph.outputs)]
    call.need(len(graph.inputs) == 2 and len(graph.outputs) == 1, "graph does not combine two numbers")
    call.need(all(_alike(port, call.input(0), ()) for port in ports), "graph combines something else")
    if call.kind == "STABLEHLO_SCATTER":
        call.need(not kinds and graph.outputs[0] == graph.inputs[1], "graph does more than to replace")
    else:
        call.need(len(kinds) == 1 and kinds[0] in _REDUCING, f"graph is {kinds}")
        call.need(not calls[0].options.get("fused_activation_function"), "graph does more than to combine")


def _alike(tensor: Tensor, other: Tensor, shape: tuple[int, ...] | None = None) -> bool:
    return tensor.dtype == other.dtype and tensor.shape == (other.shape if shape is None else shape)


def steps(call: Call, condition: tuple[Graph, Sequence[Call]], body: tuple[Graph, Sequence[Call]]) -> int:
    """Return how many steps a loop makes, or raise `RefusedError` if that does not stand in the file.

    Args:
        call: the operator WHILE.
        condition: the graph that ends the loop, with its operators.
        body: the graph of a step, with its operators.
    """
    _check_carried(call, condition[0], body[0])
    (graph, tests), (inner, updates) = condition, body
    call.need(len(tests) == 1 and tests[0].kind == "LESS", "condition is not one LESS")
    counter = graph.operators[0].inputs[0]
    call.need(counter in graph.inputs and graph.operators[0].outputs == graph.outputs, "condition tests no counter")
    place = graph.inputs.index(counter)
    limit = tests[0].scalar(1)
    made = [i for i, operator in enumerate(inner.operators) if inner.outputs[place] in operator.outputs]
    call.need(len(made) == 1 and updates[made[0]].kind == "ADD", "counter is not added to")
    add, indices = updates[made[0]], inner.operators[made[0]].inputs
    call.need(inner.inputs[place] in indices and not add.options["fused_activation_function"], "counter is another")
    increment = add.scalar(1 - indices.index(inner.inputs[place]), 1)
    start = call.scalar(place)
    count = max(0, -(-(limit - start) // increment))
    call.need(limit + increment < 2**31 and count <= MAX_STEPS, f"loop makes {count} steps, of at most {MAX_STEPS}")
    return count


def _check_carried(call: Call, condition: Graph, body: Graph) -> None:
    """Check that what a loop carries has one type and shape everywhere."""
    carried = [call.input(position) for position in range(len(call.inputs))]
    lists = (
        call.outputs,
        [condition.tensors[index] for index in condition.inputs],
        [body.tensors[index] for index in body.inputs],
        [body.tensors[index] for index in body.outputs],
    )
    for tensors in lists:
        fits = len(tensors) == len(carried) and all(map(_alike, tensors, carried))
        call.need(fits, "loop does not carry the same tensors everywhere")
    outputs = [condition.tensors[index] for index in condition.outputs]
    call.need(len(outputs) == 1 and outputs[0].elements == 1 and outputs[0].dtype == "bool", "condition is no truth")
