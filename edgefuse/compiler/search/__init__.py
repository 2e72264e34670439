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
   Where a ladder is asked for, half of the passes go to its rungs and to other objectives: for each rung to the
   combination of at most so much time that most probably loses less than the best of them so far.
5. Winners are chosen among judged combinations only; if none holds the budget, the one that misses it least.

The modules:

- `figures`: what the search reads and gives back;
- `space`: all combinations as arrays;
- `choices`: ties, float twins, dominated candidates, costs;
- `prediction`: the drop of a combination, predicted;
- `frontier`: the Pareto front, and the rungs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field

import numpy as np

from edgefuse.compiler.search.choices import Choices
from edgefuse.compiler.search.figures import (
    Combination,
    Drops,
    Floats,
    Judged,
    Limits,
    Objective,
    SearchResult,
    StageFigure,
    SubsetDrop,
    once_a_file,
)
from edgefuse.compiler.search.prediction import DropModel, Effects
from edgefuse.compiler.search.space import position_of, sums, thinned

__all__ = [
    "Combination",
    "Drops",
    "Judged",
    "Limits",
    "Objective",
    "Search",
    "SearchResult",
    "StageFigure",
    "SubsetDrop",
    "once_a_file",
]

# An expected gain below this share of the float combination is not worth a pass.
_WORTH_A_PASS = 1e-4
# Shares of the passes: at the most for stages alone, and at the least for all objectives but the first, without a
# ladder and with one.
_PROBING, _OTHERS, _OTHERS_OF_LADDER = 0.15, 0.25, 0.5
# For a rung of a ladder: the least probability of an improvement that is worth a pass, and how large it must be, as a
# share of the budget.
_PROBABLE, _BETTER = 0.05, 0.1
# The normal distribution function is the logistic one of 1.702 times its argument, within 0.01.
_LOGISTIC = 1.702


@dataclass(frozen=True)
class _Goal:
    """Something to look for: an objective under a budget of its own.

    Attributes:
        share: of the time of the first objective's winner. Within it, the smallest drop is looked for, and the budget
            is what the best one so far has; None if the objective is.
    """

    objective: Objective
    budget: float
    share: float | None = None


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
        shares: of the time of the first objective's winner, the rungs of a ladder that are asked for.
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
    shares: Sequence[float] = ()
    caution: float = 1.0
    weights: Mapping[str, float] = field(default_factory=dict)
    smallest_scale: float = 0.005
    leaves: Collection[str] | None = None
    _floor: dict[str, float] = field(default_factory=dict, init=False)
    _judged: dict[tuple[int, ...], Judged] = field(default_factory=dict, init=False)
    _cautious: list[list[float]] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self._choices = Choices(self.figures)
        self._model = DropModel(self._choices.figures, max(self.max_drop, self.smallest_scale))
        self._bounds = self.limits.bounds(self._choices.float_p50)

    def run(self) -> SearchResult:
        """Judge the float combination, stages alone, and then combinations by expected gain."""
        self._judge(self._choices.floats)
        first, *others = self._goals()
        self._probe(1 + int(_PROBING * (self.max_passes - 1)))
        kept = _OTHERS_OF_LADDER if self.shares else _OTHERS
        self._walk([first], self.max_passes - int(kept * self.max_passes) if others else self.max_passes)
        self._walk(others, self.max_passes)
        self._walk([first], self.max_passes)
        ran = [f for f in self.figures if self.leaves is None or f.stage in self.leaves]
        winners = {objective: self._winner(objective) for objective in self.objectives}
        return SearchResult(winners, list(self._judged.values()), len(self._judged), len(ran))

    def _goals(self) -> list[_Goal]:
        """Return what to look for, the most important first."""
        lossless = max(self._judged[self._choices.floats].worst_drop, 0.0)
        goals = [_Goal(o, lossless if o == "accuracy" else self.max_drop) for o in self.objectives]
        goals += [_Goal("latency", self.max_drop * multiple) for multiple in self.relaxed]
        return goals + [_Goal("latency", math.inf, share) for share in self.shares]

    def _walk(self, goals: Sequence[_Goal], limit: int) -> None:
        """Judge what is most promising for each goal in turn, until nothing is or the limit is reached."""
        turns = list(goals)
        while turns and len(self._judged) < limit:
            goal = turns.pop(0)
            best = self._most_promising(goal) if goal.share is None else self._least_lossy(goal.share)
            if best is not None:
                self._judge(best)
                turns.append(goal)

    # Alone: where does each stage break the budget?

    def _probe(self, limit: int) -> None:
        """Bisect the frontiers of all stages in turn, the slowest stage first."""
        members = self._choices.members
        order = sorted(range(len(members)), key=lambda s: (-self._choices.figures[self._choices.floats[s]].p50, s))
        probes = [self._bisect(stage, self._choices.frontier(members[stage])) for stage in order]
        while probes and len(self._judged) < limit:
            probe = probes.pop(0)
            if next(probe, None) is not None:
                probes.append(probe)

    def _bisect(self, stage: int, frontier: Sequence[int]) -> Iterator[Judged]:
        """Judge the fastest candidate, and then halve the frontier between what breaks half the budget and what not."""
        floats, broken, held = self._choices.floats, -1, len(frontier)
        position = 0
        while held - broken > 1:
            judged = self._judge((*floats[:stage], frontier[position], *floats[stage + 1 :]))
            if judged.worst_drop <= self.max_drop / 2:
                held = position
            else:
                broken = position
            yield judged
            position = (broken + held) // 2

    # Together: which combination is worth a pass?

    def _most_promising(self, goal: _Goal) -> tuple[int, ...] | None:
        """Return the combination with the largest expected gain, or `None` if no gain is worth a pass."""
        choices, objective = self._choices, goal.objective
        options, chance = self._chances(goal)
        costs = choices.costs(objective, options)
        reaching = [[[i] for i in k] for k, judged in self._judged.items() if self._reaches(goal, k, judged)]
        best = min((choices.costs(objective, alone)[0] for alone in reaching), default=None)
        # Where nothing reaches the goal yet: what is most likely to, and the cheapest of those.
        gain = 1.0 + _WORTH_A_PASS * (costs.max() - costs) if best is None else best - costs
        score = chance * gain
        number = int(score.argmax())
        if score[number] < _WORTH_A_PASS:
            return None
        return _combination_at(number, options)

    def _least_lossy(self, share: float) -> tuple[int, ...] | None:
        """Return what most probably loses less than all judged combinations of at most that time; None if nothing is.

        Args:
            share: of the time of the first objective's winner.
        """
        most = share * self._winner(self.objectives[0]).p50
        known = [j.worst_drop for j in self._judged.values() if j.p50 <= most and j.overrun <= 0]
        scale = max(self.max_drop, self.smallest_scale)
        budget = min(known) - _BETTER * scale if known else max(self.relaxed, default=1.0) * scale
        options, chance = self._chances(_Goal("latency", budget, share))
        chance[self._choices.times(options) > most] = 0.0
        number = int(chance.argmax())
        if chance[number] <= (_PROBABLE if known else 0.0):
            return None
        return _combination_at(number, options)

    def _chances(self, goal: _Goal) -> tuple[list[list[int]], Floats]:
        """Return candidates by stage, and how probable each of their combinations holds a budget: 0 for those judged.

        Nor is any that misses another limit by more than the least that one can.
        """
        choices, effects = self._choices, self._effects()
        cost = choices.cost(goal.objective)
        options = thinned(choices.options(goal.objective), cost, effects.mean.max(axis=1))
        chance, overruns = self._chance(goal, effects, options), choices.overruns(options, self._bounds)
        for known in self._judged:
            if all(i in own for i, own in zip(known, options, strict=True)):
                chance[position_of(known, options)] = 0.0
        chance[overruns > max(float(overruns.min()), 0.0)] = 0.0
        return options, chance

    def _effects(self) -> Effects:
        drops = np.array(self._cautious)
        return self._model.fit(list(self._judged), drops - drops[0])

    def _chance(self, goal: _Goal, effects: Effects, options: Sequence[Sequence[int]]) -> Floats:
        """Return the probability that each combination holds the goal's budget in its worst subset."""
        is_part = np.array([[0.0 if figure.is_float else 1.0] for figure in self._choices.figures])
        parts = sums(options, is_part)[:, 0]
        mean, variance = sums(options, effects.mean), sums(options, effects.variance[:, None])[:, 0]
        ratio = np.where(parts > 1, effects.ratio, 1.0)
        spread = np.sqrt(ratio**2 * variance + self._model.residual_variance(parts))
        margin = goal.budget - np.array(self._cautious[0]) - ratio[:, None] * mean
        return np.asarray(1 / (1 + np.exp(-np.clip(_LOGISTIC * margin.min(axis=1) / spread, -50, 50))))

    # What was found.

    def _reaches(self, goal: _Goal, indices: Sequence[int], judged: Judged) -> bool:
        return (
            judged.worst_drop <= goal.budget and judged.overrun <= 0 and self._choices.allowed(goal.objective, indices)
        )

    def _winner(self, objective: Objective) -> Judged:
        allowed = {k: judged for k, judged in self._judged.items() if self._choices.allowed(objective, k)}
        within = {k: judged for k, judged in allowed.items() if judged.within_budget}
        if within:
            return within[min(within, key=lambda k: self._rank(objective, k))]
        return allowed[min(allowed, key=lambda k: (allowed[k].shortfall, self._rank(objective, k)))]

    def _rank(self, objective: Objective, indices: Sequence[int]) -> tuple[float, float, float, str]:
        """Return what orders judged combinations: the objective, then the other figures, then the name."""
        judged = self._judged[tuple(indices)]
        latency, size = float(self._choices.tied[list(indices)].sum()), float(judged.size_bytes)
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
        combination = self._choices.combination(indices)
        drops = dict(self.judge(combination))
        self._floor = self._floor or {subset: drop.standard_error for subset, drop in drops.items()}
        cautious = [self._with_caution(subset, drops[subset]) for subset in self.subsets]
        self._cautious.append(cautious)
        figures = [self._choices.figures[i] for i in indices]
        self._judged[indices] = Judged(
            candidates=dict(combination),
            p50=self._choices.p50(indices),
            size_bytes=sum(f.size_bytes for f in once_a_file(figures)),
            memory_bytes=sum(f.memory_bytes for f in once_a_file(figures)),
            drops=drops,
            worst_drop=max(cautious),
            excess=max(cautious) - self.max_drop,
            overrun=float(self._choices.overruns([[i] for i in indices], self._bounds)[0]),
        )
        return self._judged[indices]

    def _with_caution(self, subset: str, drop: SubsetDrop) -> float:
        """Return the drop plus some standard errors, but for the error that float files show on so few items, too."""
        cautious = drop.drop + self.caution * max(0.0, drop.standard_error - self._floor[subset])
        return cautious * self.weights.get(subset, 1.0)


def _combination_at(row: int, options: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Return the combination of a row in the result of `sums`."""
    where = np.unravel_index(row, [len(own) for own in options])
    return tuple(own[int(i)] for own, i in zip(options, where, strict=True))
