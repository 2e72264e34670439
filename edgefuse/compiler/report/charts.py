"""The geometry of the report's charts: what stands where, without a word of markup."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from edgefuse.compiler.report.schema import BudgetReport, JudgedReport, RungReport

WIDTH, HEIGHT = 520.0, 360.0
LEFT, RIGHT, TOP, BOTTOM = 58.0, 16.0, 22.0, 46.0
MIN_RADIUS, MAX_RADIUS = 3.5, 11.0
# Drops beyond this many budgets are drawn at the edge: one bad combination must not flatten all the others.
CLIP_BUDGETS = 2.5
LABEL_HEIGHT = 18.0


@dataclass(frozen=True)
class Tick:
    """A labelled place on an axis, in view units."""

    at: float
    value: float


@dataclass(frozen=True)
class Mark:
    """A judged combination: its place and radius, its worst subset, and the rungs that chose it.

    `clipped` says that it stands at the edge since its drop is beyond the scale.
    """

    x: float
    y: float
    radius: float
    judged: JudgedReport
    worst: tuple[str, float]
    clipped: bool
    chosen_by: tuple[str, ...]
    label_y: float

    @property
    def label_left(self) -> bool:
        """Whether a label must stand to the left, for want of room on the right."""
        return self.x > LEFT + 0.68 * (WIDTH - LEFT - RIGHT)


@dataclass(frozen=True)
class Scatter:
    """Latency against worst drop for the judged combinations of one target.

    Attributes:
        frontier: corners of the best drop to be had at each latency, in view units.
        budget_y: the height of the line of the budget, if there is one in view.
    """

    marks: tuple[Mark, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    frontier: tuple[tuple[float, float], ...]
    budget_y: float | None


@dataclass(frozen=True)
class Axis:
    """A linear map from values to view units."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Return where a value stands; what is out of range stands at the edge."""
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + min(max(share, 0.0), 1.0) * (self.end - self.start), 2)

    def ticks(self, count: int = 5) -> tuple[Tick, ...]:
        """Return about `count` ticks at round values."""
        return tuple(Tick(self(value), value) for value in round_values(self.low, self.high, count))


def round_values(low: float, high: float, count: int = 5) -> tuple[float, ...]:
    """Return round numbers (1, 2 or 5 times a power of ten apart) from `low` to `high`, about `count` of them.

    Args:
        low: the least value.
        high: the greatest value.
        count: of values, about.
    """
    rough = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1.0, 2.0, 5.0, 10.0) if factor * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return tuple(index * step for index in range(first, last + 1))


def worst(drop: dict[str, float]) -> tuple[str, float]:
    """Return the subset that lost most, and how much; of equals the first."""
    return max(drop.items(), key=lambda item: item[1], default=("", 0.0))


def frontier(points: Iterable[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """Return the points that no other dominates (smaller is better in both coordinates), by ascending x."""
    best: list[tuple[float, float]] = []
    for point in sorted(set(points)):
        if not best or point[1] < best[-1][1]:
            best.append(point)
    return tuple(best)


def scatter(judged: Sequence[JudgedReport], rungs: Sequence[RungReport], budget: BudgetReport | None) -> Scatter:
    """Lay out the judged combinations of one target, at least one; rungs mark those with their schemes as chosen.

    Args:
        judged: combinations of one target.
        rungs: of the same target.
        budget: of the recipe, if there is one. Where it is a share of the reference's metric, so are the drops drawn.
    """
    lost = [_lost_most(item.drop, budget) for item in judged]
    drops, max_drop = [drawn for _, drawn in lost], None
    if budget is not None:
        max_drop = budget.max_drop if budget.share is None else budget.share
    x = _latency_axis([item.p50 for item in judged])
    y, ceiling = _drop_axis(drops, max_drop)
    largest = max(max(item.size_bytes for item in judged), 1)
    marks = [
        Mark(
            x=x(item.p50),
            y=y(drop),
            radius=round(max(MIN_RADIUS, MAX_RADIUS * math.sqrt(item.size_bytes / largest)), 2),
            judged=item,
            worst=(subset, item.drop.get(subset, 0.0)),
            clipped=drop > ceiling,
            chosen_by=tuple(rung.name for rung in rungs if _runs(rung, item)),
            label_y=y(drop),
        )
        for item, (subset, drop) in zip(judged, lost, strict=True)
    ]
    corners = frontier((item.p50, drop) for item, drop in zip(judged, drops, strict=True) if drop <= ceiling)
    return Scatter(
        # The chosen are drawn last and the large first, so that nothing hides what matters.
        marks=tuple(sorted(_spread_labels(marks), key=lambda mark: (bool(mark.chosen_by), -mark.radius))),
        x_ticks=x.ticks(),
        y_ticks=y.ticks(),
        frontier=tuple((x(latency), y(drop)) for latency, drop in corners),
        budget_y=y(max_drop) if max_drop is not None else None,
    )


def _lost_most(drop: dict[str, float], budget: BudgetReport | None) -> tuple[str, float]:
    """Return the subset that lost most of what it may lose, and what is drawn of it."""
    if budget is None or budget.share is None:
        return worst(drop)
    limits = budget.search_limits
    return worst({subset: budget.share * lost / limits[subset] for subset, lost in drop.items() if limits.get(subset)})


def _spread_labels(marks: Sequence[Mark]) -> list[Mark]:
    """Push the labels of chosen marks apart so that none is printed over another."""
    spread, free = [], -math.inf
    for mark in sorted(marks, key=lambda mark: mark.y):
        if mark.chosen_by:
            mark = replace(mark, label_y=max(mark.y, free))
            free = mark.label_y + LABEL_HEIGHT
        spread.append(mark)
    return spread


def _runs(rung: RungReport, item: JudgedReport) -> bool:
    if item.candidates:
        names = {s: ".".join(filter(None, (s, c.pruning, c.scheme))) for s, c in rung.stages.items()}
        return all(names.get(stage) == name for stage, name in item.candidates.items())
    schemes = {stage: choice.scheme for stage, choice in rung.stages.items()}
    return all(schemes.get(stage) == scheme for stage, scheme in item.stages.items())


def _latency_axis(latencies: Sequence[float]) -> Axis:
    low, high = min(latencies), max(latencies)
    margin = 0.08 * (high - low) or 0.1 * high or 1.0
    return Axis(max(low - margin, 0.0), high + margin, LEFT, WIDTH - RIGHT)


def _drop_axis(drops: Sequence[float], max_drop: float | None) -> tuple[Axis, float]:
    """Return the axis of drops and the drop beyond which marks are clipped."""
    top = max(*drops, max_drop or 0.0, 0.0)
    if max_drop:
        top = min(top, CLIP_BUDGETS * max_drop)
    low = min(*drops, 0.0)
    margin = 0.06 * (top - low) or 0.001
    return Axis(low - margin, top + margin, HEIGHT - BOTTOM, TOP), top
