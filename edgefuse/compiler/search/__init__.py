"""The search: from measured candidates to the best combinations. A pure function of what was recorded.

1. Dominated candidates are removed: another candidate of the stage is no worse in latency (overlapping intervals are
   ties), size and memory, and clearly less noisy. For latency, candidates that are not faster than the float file of
   their stage are removed, too.
2. The float combination is judged first: something is always found, and the latency winner is never slower.
3. A bisection along each stage's own latency/noise frontier, all others in float, finds about where that stage alone
   breaks the budget. At most a seventh of the passes go there.
4. Every pass after that goes where it is worth most: to the combination with the largest *expected gain*, what it
   would gain over the best within budget times the probability that it holds the budget (Gelbart et al. 2014,
   Bayesian optimization with unknown constraints; arXiv 1403.5607). Gains are sums of measurements; the
   probability comes from `prediction`, which learns from each pass. The first objective gets at most three
   quarters of the passes, then the others take turns; the cap is a cap.
5. Winners are chosen among judged combinations only; if none holds the budget, the one that misses it least.

The modules:

- `figures`: what the search reads and gives back;
- `candidates`: ties, float twins, dominated candidates;
- `space`: all combinations as arrays;
- `prediction`: the drop of a combination, predicted;
- `frontier`: the Pareto front, and the rungs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field

import numpy as np

from edgefuse.compiler.search.candidates import Candidates
from edgefuse.compiler.search.figures import (
    Combination,
    Drops,
    Floats,
    Found,
    Judged,
    Limits,
    Objective,
    StageFigure,
    SubsetDrop,
    once_a_file,
)
from edgefuse.compiler.search.prediction import DropModel, Effects
from edgefuse.compiler.search.space import position_of, repeated, sums, thinned

__all__ = [
    "Combination",
    "Drops",
    "Found",
    "Judged",
    "Limits",
    "Objective",
    "Search",
    "StageFigure",
    "SubsetDrop",
    "once_a_file",
]

# An expected gain below this share of the float combination is not worth a pass.
_WORTH_A_PASS = 1e-4
# What counts as a large drop where the budget is (nearly) nothing.
_SMALLEST_SCALE = 0.005
# Shares of the passes: at the most for stages alone, and at the least for all objectives but the first.
_PROBING, _OTHERS = 0.15, 0.25
# The normal distribution function is the logistic one of 1.702 times its argument, within 0.01.
_LOGISTIC = 1.702


@dataclass(frozen=True)
class _Goal:
    """Something to look for: an objective under a budget of its own."""

    objective: Objective
    budget: float


@dataclass
class Search:
    """Looks for the best combination of candidates per objective.

    Args:
        figures: measured candidates, every stage with its unpruned float one.
        judge: runs a fusion pass over a combination and returns its drops by subset.
        max_drop: the budget, in the metric's unit.
        subsets: the subsets that the budget binds.
        max_passes: the cap on calls of `judge`.
        objectives: what to find winners for; the first gets most of the passes.
        limits: what else a combination must hold.
        relaxed: multiples of the budget at which some passes look for yet faster combinations: the cheaper rungs.
        caution: standard errors that a drop must hold the budget by.
        weights: what a drop in a subset is multiplied by before it is held against the budget; 1 where there is none.
        smallest_scale: what counts as a large drop where the budget is (nearly) nothing.
        leaves: the stages that each candidate ran through once before this; all if `None`.
    """

    figures: Sequence[StageFigure]
    judge: Callable[[Combination], Drops]
    max_drop: float
    subsets: Sequence[str]
    max_passes: int
    _: KW_ONLY
    objectives: Sequence[Objective] = ("latency", "size")
    limits: Limits = field(default_factory=Limits)
    relaxed: Sequence[float] = (3.0,)
    caution: float = 1.0
    weights: Mapping[str, float] = field(default_factory=dict)
    smallest_scale: float = _SMALLEST_SCALE
    leaves: Collection[str] | None = None
    _floor: dict[str, float] = field(default_factory=dict, init=False)
    _judged: dict[tuple[int, ...], Judged] = field(default_factory=dict, init=False)
    _cautious: list[list[float]] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self._candidates = Candidates(self.figures)
        self._scale = max(self.max_drop, self.smallest_scale)
        self._model = DropModel(self._candidates.figures, self._scale)
        self._floats = self._candidates.indices(self._candidates.floats())

    def run(self) -> Found:
        """Judge the float combination, stages alone, and then combinations by expected gain."""
        self._judge(self._floats)
        first, *others = self._goals()
        self._probe(1 + int(_PROBING * (self.max_passes - 1)))
        self._walk([first], self.max_passes - int(_OTHERS * self.max_passes) if others else self.max_passes)
        self._walk(others, self.max_passes)
        self._walk([first], self.max_passes)
        ran = [f for f in self.figures if self.leaves is None or f.stage in self.leaves]
        winners = {objective: self._winner(objective) for objective in self.objectives}
        return Found(winners, list(self._judged.values()), len(self._judged), len(ran))

    def _goals(self) -> list[_Goal]:
        """Return what to look for, the most important first."""
        lossless = max(self._judged[self._floats].worst_drop, 0.0)
        goals = [_Goal(o, lossless if o == "accuracy" else self.max_drop) for o in self.objectives]
        return goals + [_Goal("latency", self.max_drop * multiple) for multiple in self.relaxed]

    def _walk(self, goals: Sequence[_Goal], limit: int) -> None:
        """Judge what is most promising for each goal in turn, until nothing is or the limit is reached."""
        turns = list(goals)
        while turns and len(self._judged) < limit:
            goal = turns.pop(0)
            best = self._most_promising(goal)
            if best is not None:
                self._judge(best)
                turns.append(goal)

    # Alone: where does each stage break the budget?

    def _probe(self, limit: int) -> None:
        """Bisect the frontiers of all stages in turn, the slowest stage first."""
        members = self._candidates.members
        order = sorted(range(len(members)), key=lambda s: (-self._candidates.figures[self._floats[s]].p50, s))
        probes = [self._bisect(stage, self._frontier(members[stage])) for stage in order]
        while probes and len(self._judged) < limit:
            probe = probes.pop(0)
            if next(probe, None) is not None:
                probes.append(probe)

    def _bisect(self, stage: int, frontier: Sequence[int]) -> Iterator[Judged]:
        """Judge the fastest candidate, and then halve the frontier between what breaks half the budget and what not."""
        broken, held = -1, len(frontier)
        position = 0
        while held - broken > 1:
            judged = self._judge((*self._floats[:stage], frontier[position], *self._floats[stage + 1 :]))
            if judged.worst_drop <= self.max_drop / 2:
                held = position
            else:
                broken = position
            yield judged
            position = (broken + held) // 2

    def _frontier(self, members: Sequence[int]) -> list[int]:
        """Return the candidates of a stage on the front of latency and noise, the fastest first, without float."""
        figures, tied = self._candidates.figures, self._candidates.tied
        usable = [i for i in members if self._candidates.fast[i] and not figures[i].is_float]
        frontier: list[int] = []
        for i in sorted(usable, key=lambda i: (tied[i], figures[i].noise, i)):
            if not frontier or figures[i].noise < figures[frontier[-1]].noise:
                frontier.append(i)
        return frontier

    # Together: which combination is worth a pass?

    def _most_promising(self, goal: _Goal) -> tuple[int, ...] | None:
        """Return the combination with the largest expected gain, or `None` if no gain is worth a pass."""
        effects = self._effects()
        cost = self._candidates.cost(goal.objective)
        options = thinned(self._candidates.options(goal.objective), cost, effects.mean.max(axis=1))
        costs, chance = sums(options, cost[:, None])[:, 0], self._chance(goal, effects, options)
        overruns = self._overruns(options)
        for known in self._judged:
            if all(i in own for i, own in zip(known, options, strict=True)):
                chance[position_of(known, options)] = 0.0
        chance[overruns > max(float(overruns.min()), 0.0)] = 0.0
        best = min((cost[list(k)].sum() for k, j in self._judged.items() if self._reaches(goal, k, j)), default=None)
        # Where nothing reaches the goal yet: what is most likely to, and the cheapest of those.
        gain = 1.0 + _WORTH_A_PASS * (costs.max() - costs) if best is None else best - costs
        score = chance * gain
        number = int(score.argmax())
        if score[number] < _WORTH_A_PASS:
            return None
        where = np.unravel_index(number, [len(own) for own in options])
        return tuple(own[int(i)] for own, i in zip(options, where, strict=True))

    def _effects(self) -> Effects:
        drops = np.array(self._cautious)
        return self._model.fit(list(self._judged), drops - drops[0])

    def _chance(self, goal: _Goal, effects: Effects, options: Sequence[Sequence[int]]) -> Floats:
        """Return the probability that each combination holds the goal's budget in its worst subset."""
        is_part = np.array([[0.0 if figure.is_float else 1.0] for figure in self._candidates.figures])
        parts = sums(options, is_part)[:, 0]
        mean, variance = sums(options, effects.mean), sums(options, effects.variance[:, None])[:, 0]
        ratio = np.where(parts > 1, effects.ratio, 1.0)
        spread = np.sqrt(ratio**2 * variance + self._model.residual_variance(parts))
        margin = goal.budget - np.array(self._cautious[0]) - ratio[:, None] * mean
        return np.asarray(1 / (1 + np.exp(-np.clip(_LOGISTIC * margin.min(axis=1) / spread, -50, 50))))

    def _overruns(self, options: Sequence[Sequence[int]]) -> Floats:
        """Return how far combinations miss the limits, as the largest share."""
        figures = self._candidates.figures
        measured = np.array([[f.p50, f.size_bytes, f.memory_bytes] for f in figures], np.float64)
        bounds = np.array([self._max_latency(), self._max(self.limits.max_size_bytes), self._max_memory()])
        totals = sums(options, measured)
        files = [f.file for f in figures]
        if len(known := [file for file in files if file]) > len(set(known)):
            totals = totals - repeated(options, measured * [0, 1, 1], files)
        shares = totals / np.maximum(bounds, 1e-12)
        return np.asarray(np.maximum(shares - 1, 0).max(axis=1), np.float64)

    def _max_latency(self) -> float:
        share = self._max(self.limits.max_latency_share)
        floats = sum(self._candidates.figures[i].p50 for i in self._floats)
        return min(self._max(self.limits.max_latency_ms), share * floats)

    def _max_memory(self) -> float:
        return self._max(self.limits.max_memory_bytes)

    @staticmethod
    def _max(limit: float | None) -> float:
        return math.inf if limit is None else float(limit)

    # What was found.

    def _reaches(self, goal: _Goal, indices: Sequence[int], judged: Judged) -> bool:
        return judged.worst_drop <= goal.budget and judged.overrun <= 0 and self._allowed(goal.objective, indices)

    def _allowed(self, objective: Objective, indices: Sequence[int]) -> bool:
        """Whether an objective may choose it: what is slower than float is for size and memory only."""
        if objective == "latency":
            return all(self._candidates.fast[i] for i in indices)
        floats = sum(self._candidates.figures[i].p50 for i in self._floats)
        return objective != "accuracy" or sum(self._candidates.figures[i].p50 for i in indices) <= floats

    def _winner(self, objective: Objective) -> Judged:
        allowed = {k: judged for k, judged in self._judged.items() if self._allowed(objective, k)}
        within = {k: judged for k, judged in allowed.items() if judged.within_budget}
        if within:
            return within[min(within, key=lambda k: self._rank(objective, k))]
        return allowed[min(allowed, key=lambda k: (allowed[k].shortfall, self._rank(objective, k)))]

    def _rank(self, objective: Objective, indices: Sequence[int]) -> tuple[float, float, float, str]:
        """Return what orders judged combinations: the objective, then the other figures, then the name."""
        judged = self._judged[tuple(indices)]
        latency, size = float(self._candidates.tied[list(indices)].sum()), float(judged.size_bytes)
        loss = max(judged.worst_drop, 0.0)
        order: dict[Objective, tuple[float, float, float]] = {
            "latency": (latency, size, loss),
            "size": (size, latency, loss),
            "memory": (float(judged.memory_bytes), latency, size),
            "accuracy": (loss, latency, size),
        }
        return (*order[objective], judged.name)

    def _judge(self, indices: tuple[int, ...]) -> Judged:
        if indices in self._judged:
            return self._judged[indices]
        combination = self._candidates.combination(indices)
        drops = dict(self.judge(combination))
        self._floor = self._floor or {subset: drop.standard_error for subset, drop in drops.items()}
        cautious = [self._with_caution(subset, drops[subset]) for subset in self.subsets]
        self._cautious.append(cautious)
        figures = [self._candidates.figures[i] for i in indices]
        self._judged[indices] = Judged(
            candidates=dict(combination),
            p50=sum(f.p50 for f in figures),
            size_bytes=sum(f.size_bytes for f in once_a_file(figures)),
            memory_bytes=sum(f.memory_bytes for f in once_a_file(figures)),
            drops=drops,
            worst_drop=max(cautious),
            excess=max(cautious) - self.max_drop,
            overrun=float(self._overruns([[i] for i in indices])[0]),
        )
        return self._judged[indices]

    def _with_caution(self, subset: str, drop: SubsetDrop) -> float:
        """Return the drop plus some standard errors, but for the error that float files show on so few items, too."""
        cautious = drop.drop + self.caution * max(0.0, drop.standard_error - self._floor[subset])
        return cautious * self.weights.get(subset, 1.0)
