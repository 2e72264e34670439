"""The limits of the recipe, and the values of a rung, end to end and on test data."""

from __future__ import annotations

from collections.abc import Iterator

from edgefuse.bundle.manifest import Rung
from edgefuse.compiler.report.compiled import Compiled
from edgefuse.compiler.report.schema import Constraint
from edgefuse.compiler.search import once_a_file
from edgefuse.compiler.timing.timer import FLOAT_RUNG

# Accuracies are multiples of 1/items: a drop of exactly the budget must not exceed it by rounding.
_ROUNDING = 1e-9


def constraints(made: Compiled, target: str, rung: Rung) -> list[Constraint]:
    """Return every limit of the recipe with the value of a rung: of each output's drops, that of the worst subset.

    Args:
        made: the results of the compile.
        target: its name.
        rung: with its accuracy by subset.
    """
    return [
        Constraint(
            rung=rung.name,
            what=what,
            limit=limit,
            value=value,
            unit=unit,
            excess=value - limit if value > limit + _ROUNDING * max(limit, 1.0) else 0.0,
        )
        for what, unit, value, limit in _found(made, target, rung)
    ]


def _found(made: Compiled, target: str, rung: Rung) -> Iterator[tuple[str, str, float, float]]:
    """Give (what, unit, value, limit) of each limit."""
    subject, limits, timings = made.subject, made.limits, made.timings.rungs[target]
    for output in (name for name in subject.judged if subject.bound_keys_of(name)):
        metric, is_first = subject.metrics[output], output == subject.judged[0]
        after = rung.accuracy if is_first else rung.outputs[output].accuracy
        lost = {
            key: metric.lost(made.reference[key], after[subset])
            for subset, key in subject.keys_of(output).items()
            if key in subject.bound_keys_of(output)
        }
        key = subject.budget.worst("test", lost)
        subset = next(subset for subset, own in subject.keys_of(output).items() if own == key)
        what = f"drop in {subset}" if is_first else f"drop of '{output}' in {subset}"
        yield what, metric.name, lost[key], subject.budget.limit("test", key)
    p50 = timings[rung.name].p50
    if limits.max_latency_ms is not None:
        yield "latency", "ms", p50, limits.max_latency_ms
    if limits.max_latency_share is not None:
        share = limits.max_latency_share
        unit = made.timings.unit
        what = "latency" if unit == "ms" else "cost"
        yield f"{what} ({share:g} of float)", unit, p50, share * timings[FLOAT_RUNG].p50
    if limits.max_size_bytes is not None:
        yield "size", "bytes", rung.size_bytes, limits.max_size_bytes
    if limits.max_memory_bytes is not None:
        parts = once_a_file(made.figure(target, candidate) for candidate in rung.candidates.values())
        memory = sum(part.memory_bytes for part in parts)
        yield "memory of the stages (estimated)", "bytes", memory, limits.max_memory_bytes
