"""The search: from measured candidates to rungs. A pure function of what was recorded.

Encoder work is the sum of the candidates (each ran once over the validation set before this). Every candidate is
judged alone, all others in float; the sum of these drops predicts a combination's. Combinations are then judged in
order of the objective until one holds the budget, and the number of judgements is capped.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from edgefuse.bundle.spec import Record

Objective: TypeAlias = Literal["latency", "size"]
Combination: TypeAlias = Mapping[str, str]
"""Stage name to candidate id."""

_MAX_ENUMERATED = 200_000
# A combination is worth judging while the sum of its parts' drops stays within this multiple of the budget: errors of
# independent parts add up to less than their sum.
_PREDICTION_SLACK = 2.0


class StageFigure(Record, frozen=True, kw_only=True):
    """What was measured of one candidate alone.

    Attributes:
        p50_ci_ms: the 95 % interval of the median.
        size_bytes: of the file; 0 for a frontend, which all rungs share.
        speedup: of the float file of the same stage over this one, from interleaved runs, with its 95 % interval.
        snr_db: signal-to-noise of the stage's output against torch fp32, on the validation set.
    """

    stage: str
    candidate: str
    scheme: str
    p50_ms: float
    p50_ci_ms: tuple[float, float]
    speedup: float
    speedup_ci95: tuple[float, float]
    size_bytes: int
    snr_db: float
    is_float: bool

    @property
    def slower_than_float(self) -> bool:
        """Whether it is not shown to be faster than its float twin."""
        return not self.is_float and self.speedup_ci95[0] <= 1.0


class SubsetDrop(Record, frozen=True, kw_only=True):
    """How much of the metric a combination loses in one subset: reference minus candidate, paired."""

    drop: float
    low: float
    high: float

    @property
    def standard_error(self) -> float:
        """A quarter of the 95 % interval, nearly."""
        return (self.high - self.low) / (2 * 1.96)


Drops: TypeAlias = Mapping[str, SubsetDrop]


class Judged(Record, frozen=True, kw_only=True):
    """A combination that got a fusion pass."""

    candidates: dict[str, str]
    p50_ms: float
    size_bytes: int
    drops: dict[str, SubsetDrop]
    excess: float

    @property
    def within_budget(self) -> bool:
        """Whether every subset that the budget binds holds it, with one standard error to spare."""
        return self.excess <= 0


@dataclass(frozen=True)
class Found:
    """The result: one combination per objective, all that was judged, and how many judgements there were."""

    winners: Mapping[Objective, Judged]
    judged: Sequence[Judged]
    passes: int


@dataclass
class Search:
    """Looks for the best combination of candidates per objective.

    Args:
        figures: measured candidates, every stage with its float one.
        judge: runs a fusion pass over a combination and returns its drops by subset.
        max_drop: the budget, a fraction of the metric.
        subsets: the subsets that the budget binds.
        max_passes: the cap on calls of `judge`.
    """

    figures: Sequence[StageFigure]
    judge: Callable[[Combination], Drops]
    max_drop: float
    subsets: Sequence[str]
    max_passes: int
    _judged: dict[tuple[str, ...], Judged] = field(default_factory=dict, init=False)
    _floor: dict[str, float] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._by_id = {figure.candidate: figure for figure in self.figures}
        self._stages = list(dict.fromkeys(figure.stage for figure in self.figures))

    def run(self) -> Found:
        """Judge the float combination, every candidate alone, and then combinations by objective."""
        floats = {figure.stage: figure.candidate for figure in self.figures if figure.is_float}
        self._judge(floats)
        reserve = min(self.max_passes // 2, len(self.figures))
        for figure in sorted(self.figures, key=lambda f: (f.p50_ms / max(self._float_of(f).p50_ms, 1e-9), f.candidate)):
            if not figure.is_float and len(self._judged) < self.max_passes - reserve:
                self._judge(floats | {figure.stage: figure.candidate})
        winners: dict[Objective, Judged] = {}
        for objective, share in (("latency", reserve - reserve // 2), ("size", reserve // 2)):
            winners[objective] = self._look(objective, floats, share)  # type: ignore[index, arg-type]
        return Found(winners, list(self._judged.values()), len(self._judged))

    def _look(self, objective: Objective, floats: Mapping[str, str], share: int) -> Judged:
        limit = min(len(self._judged) + share, self.max_passes)
        for combination in self._ranked(objective):
            known = tuple(combination[stage] for stage in self._stages) in self._judged
            if not known and len(self._judged) >= limit:
                break
            if self._judge(combination).within_budget:
                break
        allowed = [judged for judged in self._judged.values() if self._allowed(objective, judged.candidates)]
        within = [judged for judged in allowed if judged.within_budget]
        if within:
            return min(within, key=lambda judged: self._rank(objective, judged.candidates))
        return min(allowed, key=lambda judged: (judged.excess, self._rank(objective, judged.candidates)))

    def _ranked(self, objective: Objective) -> list[Combination]:
        """Return combinations by objective, without those whose predicted drop is hopeless."""
        options = [
            [f for f in self.figures if f.stage == stage and self._allowed(objective, {stage: f.candidate})]
            for stage in self._stages
        ]
        while _product(options) > _MAX_ENUMERATED:
            max(options, key=len).sort(key=lambda f: self._rank(objective, {f.stage: f.candidate}))
            max(options, key=len).pop()
        combinations = [{f.stage: f.candidate for f in parts} for parts in itertools.product(*options)]
        hopeful = [c for c in combinations if self._predicted_excess(c) <= self.max_drop * (_PREDICTION_SLACK - 1)]
        return sorted(hopeful, key=lambda c: self._rank(objective, c))

    def _allowed(self, objective: Objective, combination: Combination) -> bool:
        """A candidate that is not faster than its float twin is for the size objective only."""
        return objective == "size" or not any(self._by_id[c].slower_than_float for c in combination.values())

    def _rank(self, objective: Objective, combination: Combination) -> tuple[float, float, str]:
        latency = sum(self._tied_p50_ms(self._by_id[c]) for c in combination.values())
        size = sum(self._by_id[c].size_bytes for c in combination.values())
        name = " ".join(combination[stage] for stage in self._stages if stage in combination)
        return (latency, size, name) if objective == "latency" else (size, latency, name)

    def _tied_p50_ms(self, figure: StageFigure) -> float:
        """Return the median of the fastest candidate whose interval overlaps this one's: they are a tie."""
        rivals = [f for f in self.figures if f.stage == figure.stage and f.p50_ci_ms[1] >= figure.p50_ci_ms[0]]
        return min(f.p50_ms for f in [*rivals, figure])

    def _float_of(self, figure: StageFigure) -> StageFigure:
        return next(f for f in self.figures if f.stage == figure.stage and f.is_float)

    def _predicted_excess(self, combination: Combination) -> float:
        """Sum the drops of the parts, each judged alone; a part that was not judged counts as harmless."""
        alone = {
            next(iter(changed)): judged
            for judged in self._judged.values()
            if len(changed := [c for c in judged.candidates.values() if not self._by_id[c].is_float]) == 1
        }
        parts = [alone[c] for c in combination.values() if c in alone]
        return max(sum(part.drops[subset].drop for part in parts) - self.max_drop for subset in self.subsets)

    def _cautious(self, subset: str, drop: SubsetDrop) -> float:
        """Return the drop plus one standard error, but for the error that float files show on so few items, too."""
        return drop.drop + max(0.0, drop.standard_error - self._floor[subset])

    def _judge(self, combination: Combination) -> Judged:
        key = tuple(combination[stage] for stage in self._stages)
        if key not in self._judged:
            drops = dict(self.judge(combination))
            self._floor = self._floor or {subset: drop.standard_error for subset, drop in drops.items()}
            self._judged[key] = Judged(
                candidates=dict(combination),
                p50_ms=sum(self._by_id[c].p50_ms for c in key),
                size_bytes=sum(self._by_id[c].size_bytes for c in key),
                drops=drops,
                excess=max(self._cautious(subset, drops[subset]) for subset in self.subsets) - self.max_drop,
            )
        return self._judged[key]


def _product(options: Sequence[Sequence[StageFigure]]) -> int:
    total = 1
    for choice in options:
        total *= len(choice)
    return total
