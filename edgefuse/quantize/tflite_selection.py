"""Choose which operators of a TFLite graph are worth running in int8.

LiteRT's int8 is the fastest there is where it carries the arithmetic, and slower than float where it is everywhere:
each border between float and int8 is a pass over memory, and softmax, layer norm and residual sums of transformers
lose accuracy besides. So: what multiplies by weights is quantized; what only moves or pools values is quantized where
it lies between such operators; a sum is quantized where it adds up convolutions (the residual of an image network).
Masks, softmax, layer norm and products of two activations stay float.
"""

from __future__ import annotations

import fnmatch

from edgefuse.quantize.tflite_graph import Operator, TfliteGraph

CONVOLUTIONS = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D"})
WEIGHTED = CONVOLUTIONS | {"FULLY_CONNECTED"}
DYNAMIC = frozenset({"CONV_2D", "FULLY_CONNECTED"})
TABLES = frozenset({"EMBEDDING_LOOKUP"})
_CARRIERS = frozenset({"RESHAPE", "TRANSPOSE", "PAD", "MAX_POOL_2D", "AVERAGE_POOL_2D", "MEAN", "CONCATENATION"})
_SUMS = frozenset({"ADD"})


def weighted(graph: TfliteGraph, kinds: frozenset[str], exclude: tuple[str, ...]) -> tuple[Operator, ...]:
    """Return the operators of some kinds that hold constant weights, but for the excluded ones.

    Args:
        graph: the float graph.
        kinds: operator kinds.
        exclude: patterns (`fnmatch`) of operator kinds or names.
    """
    return tuple(
        operator
        for operator in graph.operators
        if operator.kind in kinds and graph.holds_weights(operator) and not _is_excluded(operator, exclude)
    )


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
