"""The Pareto front of judged combinations, and the rungs that are worth having."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from edgefuse.compiler.search.figures import Judged, Objective

WORTH = 0.05
"""A rung must be this much faster or smaller than one before it, as a share."""

NAMES: Mapping[Objective, str] = {
    "latency": "fast",
    "size": "small",
    "memory": "lean",
    "accuracy": "accurate",
}
"""The rung that an objective gives. No superlatives: a rung beyond the budget may be faster, or smaller, still."""

_REDUCED = "reduced-"


@dataclass(frozen=True)
class Apart:
    """How far apart the rungs of a ladder are.

    Attributes:
        ratio: how many times faster each is than the one above it, at the least.
        down_to: of the first rung's time, the share that the last one takes, at the most.
    """

    ratio: float
    down_to: float


def reduced(rung: str) -> bool:
    """Tell whether a rung of that name is faster at a price beyond the budget."""
    return rung.startswith(_REDUCED)


def objective_of(rung: str) -> Objective:
    """Return the objective of a rung by its name; that of reduced ones is latency."""
    return next((objective for objective, name in NAMES.items() if name == rung), "latency")


def front(judged: Iterable[Judged]) -> list[Judged]:
    """Return the combinations that no other dominates in latency, size and worst drop, the fastest first.

    A drop below zero is luck: it counts as none.
    """
    found: list[Judged] = []
    for one in sorted(judged, key=lambda j: (*_figures(j), j.name)):
        if not any(all(a <= b for a, b in zip(_figures(other), _figures(one), strict=True)) for other in found):
            found.append(one)
    return found


def ladder(
    judged: Sequence[Judged],
    winners: Mapping[Objective, Judged],
    *,
    default: Objective = "latency",
    most: int = 6,
    largest_drop: float = 0.1,
    apart: Apart | None = None,
) -> list[tuple[str, Judged]]:
    """Return a bundle's rungs: names and combinations, the default one first.

    `fast`, `small`, `lean` and `accurate` are the winners of the objectives, those that are there. Between the
    default and them stand `reduced-1`, `reduced-2` …: each faster than the one before at a price beyond the budget,
    so that a device under heat or load steps down the list and knows what it pays.

    Args:
        judged: all judged combinations.
        winners: by objective.
        default: the objective whose winner is the rung that a device starts on.
        most: how many rungs, at the most.
        largest_drop: the worst drop that a reduced rung may have.
        apart: how far apart reduced rungs are, and down to which time; as many as there are if None.
    """
    rungs = [(NAMES[default], winners[default])]
    further = [(NAMES[o], w) for o, w in winners.items() if o != default and _differs(o, w, winners[default])]
    start, room = winners.get("latency", winners[default]), most - 1 - len(further)
    steps = (
        _reduced(judged, start, room, largest_drop)
        if apart is None
        else _apart(judged, start, room, largest_drop, apart.ratio, apart.down_to * winners[default].p50)
    )
    rungs += [(f"{_REDUCED}{number}", step) for number, step in enumerate(steps, start=1)]
    return (rungs + further)[: max(most, 1)]


def _reduced(judged: Sequence[Judged], start: Judged, most: int, largest_drop: float) -> list[Judged]:
    """Return ever faster combinations of the front beyond the budget, each at the smallest price for its gain."""
    beyond = [j for j in front(judged) if j.overrun <= 0 and j.worst_drop <= largest_drop and not j.within_budget]
    steps: list[Judged] = []
    for one in sorted(beyond, key=lambda j: (j.worst_drop, j.p50, j.name)):
        if one.p50 <= (1 - WORTH) * (steps[-1] if steps else start).p50:
            steps.append(one)
    # Too many: those that gain most stay, in order.
    while len(steps) > max(most, 0):
        before = [start, *steps]
        gains = [one.p50 / before[number].p50 for number, one in enumerate(steps)]
        del steps[gains.index(max(gains))]
    return steps


def _apart(
    judged: Sequence[Judged], start: Judged, most: int, largest_drop: float, ratio: float, least_p50: float
) -> list[Judged]:
    """Return ever faster combinations, each `ratio` times faster than the one before, at the smallest price each.

    The last one is chosen first: that with the smallest drop among those down to the time that is asked for, or the
    fastest where none is. The others then lie between.
    """
    faster = [j for j in front(judged) if j.p50 <= start.p50 / ratio]
    usable = [j for j in faster if j.overrun <= 0 and j.worst_drop <= largest_drop]
    if not usable or most < 1 or start.p50 <= least_p50:
        return []
    order = {j.name: (j.worst_drop, j.p50, j.name) for j in usable}
    down = [j for j in usable if j.p50 <= least_p50]
    last = min(down, key=lambda j: order[j.name]) if down else min(usable, key=lambda j: (j.p50, order[j.name]))
    steps = [start]
    while len(steps) < most:
        between = [j for j in usable if last.p50 * ratio <= j.p50 <= steps[-1].p50 / ratio]
        cheaper = [j for j in between if j.worst_drop < last.worst_drop]
        if not cheaper:
            break
        steps.append(min(cheaper, key=lambda j: order[j.name]))
    return [*steps[1:], last]


def _differs(objective: Objective, one: Judged, default: Judged) -> bool:
    """Whether a winner is worth a rung of its own beside the default one."""
    if one.candidates == default.candidates:
        return False
    if objective == "accuracy":
        return max(one.worst_drop, 0.0) < max(default.worst_drop, 0.0)
    figure = {"latency": "p50", "size": "size_bytes", "memory": "memory_bytes"}[objective]
    return bool(getattr(one, figure) <= (1 - WORTH) * getattr(default, figure))


def _figures(judged: Judged) -> tuple[float, int, float]:
    return judged.p50, judged.size_bytes, max(judged.worst_drop, 0.0)
