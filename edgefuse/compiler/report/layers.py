"""The layers of the default rung that stayed float, with the reason."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from fnmatch import fnmatchcase

from edgefuse.bundle.scheme import Scheme
from edgefuse.compiler.candidates.built import Built
from edgefuse.compiler.report.compiled import Compiled
from edgefuse.compiler.report.format import amount
from edgefuse.compiler.report.schema import FloatLayers
from edgefuse.compiler.search import Judged
from edgefuse.export.cost_graph import CostGraph, Family, Operation
from edgefuse.measure.metrics import is_share
from edgefuse.quantize.schemes import SMALLEST_PRODUCT

WHOLE_STAGE = "whole stage"

_REASONS: Mapping[Family, str] = {
    "norm": "normalization: no 8-bit kernel, and 8 bits cost it accuracy",
    "softmax": "softmax: 8 bits cost accuracy",
    "curve": "activation function: 8 bits cost accuracy",
    "sum": "sums and scales between float layers: converting would cost more than it saves",
    "pool": "means and pools between float layers: converting would cost more than it saves",
}


def float_layers(made: Compiled, target: str) -> list[FloatLayers]:
    """Return the layers that stayed float in a target's default rung."""
    result = made.results[target]
    found = []
    for candidate in made.default(target).candidates.values():
        built, graph = result.built[candidate], made.graph(target, candidate)
        if built.scheme.name in ("float", "fp16"):
            kinds = {(WHOLE_STAGE, _whole_stage(made, target, built)): list(graph.operations)}
        else:
            kinds = _by_reason(graph, built.scheme)
        found += [
            FloatLayers(
                target=target,
                stage=built.stage,
                candidate=candidate,
                operator=operator,
                count=len(operations),
                mac=sum(operation.mac for operation in operations),
                reason=reason,
            )
            for (operator, reason), operations in kinds.items()
        ]
    return found


def _by_reason(graph: CostGraph, scheme: Scheme) -> dict[tuple[str, str], list[Operation]]:
    """Group the operations that compute in float; those that only move or convert values are left out."""
    groups: dict[str, list[Operation]] = defaultdict(list)
    for operation in graph.operations:
        reason = None if operation.integer else reason_for(graph, operation, scheme)
        if reason is not None:
            groups[reason].append(operation)
    heaviest_first = sorted(groups.items(), key=lambda item: -sum(operation.mac for operation in item[1]))
    return {
        (", ".join(dict.fromkeys(operation.kind for operation in group)), reason): group
        for reason, group in heaviest_first
    }


def reason_for(graph: CostGraph, operation: Operation, scheme: Scheme) -> str | None:
    """Say why a scheme left an operation float; None if it computes nothing.

    Args:
        graph: of the file.
        operation: in it.
        scheme: of the file.
    """
    kind = operation.kind
    for pattern in scheme.exclude:
        if fnmatchcase(kind, pattern) or fnmatchcase(operation.name, pattern):
            return f"excluded by the scheme ({pattern})"
    if operation.mac:
        return _product_reason(graph, operation, scheme)
    return _REASONS.get(operation.family)


def _product_reason(graph: CostGraph, operation: Operation, scheme: Scheme) -> str:
    constants = [graph.sizes[name] for name in operation.reads if name in graph.constants]
    if not constants:
        return "product of two activations: it has no weights"
    if operation.family == "convolution" and scheme.name.startswith("dynamic"):
        return "convolution: no fast kernel with ranges found at run time"
    if max(constants) / 4 < SMALLEST_PRODUCT:
        return f"fewer than {SMALLEST_PRODUCT:,} weights: converting would cost more than it saves"
    return "the quantizer has no 8-bit form of it"


def _whole_stage(made: Compiled, target: str, built: Built) -> str:
    """Say why no quantized candidate of a stage was chosen."""
    result = made.results[target]
    if made.spec(built.stage).role == "frontend":
        return "frontend: signal processing is never quantized"
    if built.scheme.name == "fp16":
        return "16-bit weights, computed in float"
    rivals = [f for f in result.figures if f.stage == built.stage and result.built[f.candidate].scheme != built.scheme]
    if not rivals:
        prefix = f"{built.stage}."
        refusals = [reason for name, reason in result.data.candidates.refused.items() if name.startswith(prefix)]
        return f"no scheme could be applied: {refusals[0]}" if refusals else "no scheme was tried"
    if all(figure.slower_than_float for figure in rivals):
        best = max(figure.speedup for figure in rivals)
        return f"no scheme is shown to be faster than float (the best: {best:.2f} times)"
    names = {figure.candidate for figure in rivals if not figure.slower_than_float}
    alone = [
        _lost(made, one)
        for one in result.search.judged
        if one.candidates.get(built.stage) in names
        and one.candidates == {**result.floats, built.stage: one.candidates[built.stage]}
    ]
    if alone and min(alone)[0] > made.subject.budget.max_drop:
        _, least, metric = min(alone)
        lost = f"{least:.4f}" if is_share(metric) else amount(least, metric)
        return f"every faster scheme that was judged by itself loses more than the budget (at least {lost})"
    return "the search found a better combination with it in float"


def _lost(made: Compiled, judged: Judged) -> tuple[float, float, str]:
    """Return the worst drop on validation: to be held against the budget, in its metric's unit, and that metric."""
    subject, drops = made.subject, {key: drop.drop for key, drop in judged.drops.items()}
    worst = subject.budget.worst("validation", drops)
    output = next(name for name in subject.judged if worst in subject.keys_of(name).values())
    return drops[worst] * subject.budget.weight("validation", worst), drops[worst], subject.metrics[output].name
