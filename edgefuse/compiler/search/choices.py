"""The candidates that a search chooses from: ties, float twins, the removal of dominated ones, and what they cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from edgefuse.compiler.search.figures import FLOAT_SCHEME, Combination, Floats, Objective, StageFigure, once_a_file
from edgefuse.compiler.search.space import repeated, sums

# How much the second criterion weighs in the cost of the first: it decides between ties, nothing else.
_TIE_WEIGHT = 1e-3
# Signal-to-noise tells what a candidate loses to about this much: only a clearly noisier candidate is dominated.
_CLEARLY_DB = 3.0


class Choices:
    """The figures of all candidates in a fixed order, whatever the order they came in.

    Args:
        figures: measured candidates, every stage with its unpruned float one.

    Attributes:
        figures: by stage name, then candidate id.
        stages: stage names in the caller's order.
        members: the indices of a stage's candidates that are worth choosing, by stage, in the order of names.
        floats: the index of each stage's unpruned float file, in that order.
        float_p50: what these take together.
        tied: the median of the fastest candidate of the stage that each ties with: float64 [candidates].
        fast: whether each is shown to be faster than float files: bool [candidates].
    """

    def __init__(self, figures: Sequence[StageFigure]) -> None:
        self.stages = list(dict.fromkeys(figure.stage for figure in figures))
        self.figures = sorted(figures, key=lambda figure: (figure.stage, figure.candidate))
        self._index = {figure.candidate: number for number, figure in enumerate(self.figures)}
        self._by_stage = {s: [f for f in self.figures if f.stage == s] for s in sorted(self.stages)}
        self._files = [figure.file for figure in self.figures]
        self.floats = tuple(number for number, figure in enumerate(self.figures) if figure.is_float)
        self.float_p50 = self.p50(self.floats)
        self.tied = np.array([self._tied(figure) for figure in self.figures])
        self.fast = np.array([self._faster_than_twins(figure) for figure in self.figures])
        self.members = [
            [self._index[f.candidate] for f in own if f.is_float or not any(self._beats(o, f) for o in own)]
            for own in self._by_stage.values()
        ]

    def combination(self, indices: Sequence[int]) -> Combination:
        """Return stage to candidate, in the caller's order of stages."""
        by_stage = {self.figures[i].stage: self.figures[i].candidate for i in indices}
        return {stage: by_stage[stage] for stage in self.stages}

    def p50(self, indices: Iterable[int]) -> float:
        """Return the sum of the medians of a combination's parts."""
        return sum(self.figures[i].p50 for i in indices)

    def times(self, options: Sequence[Sequence[int]]) -> Floats:
        """Return the sum of the medians of every combination's parts, float64 [combinations]."""
        return sums(options, np.array([[figure.p50] for figure in self.figures]))[:, 0]

    def options(self, objective: Objective) -> list[list[int]]:
        """Return the candidates of each stage that an objective may choose: for latency, those faster than float."""
        return [[i for i in own if objective in ("size", "memory") or self.fast[i]] for own in self.members]

    def allowed(self, objective: Objective, indices: Sequence[int]) -> bool:
        """Tell whether an objective may choose a combination: one slower than float is for size and memory only."""
        if objective == "latency":
            return all(self.fast[i] for i in indices)
        return objective != "accuracy" or self.p50(indices) <= self.float_p50

    def frontier(self, members: Sequence[int]) -> list[int]:
        """Return the candidates of a stage on the front of latency and noise, the fastest first, without float."""
        usable = [i for i in members if self.fast[i] and not self.figures[i].is_float]
        frontier: list[int] = []
        for i in sorted(usable, key=lambda i: (self.tied[i], self.figures[i].noise, i)):
            if not frontier or self.figures[i].noise < self.figures[frontier[-1]].noise:
                frontier.append(i)
        return frontier

    def overruns(self, options: Sequence[Sequence[int]], bounds: Sequence[float]) -> Floats:
        """Return how far combinations miss limits, as the largest share.

        Args:
            options: candidate indices by stage.
            bounds: of latency, size and memory.

        Returns:
            float64 [combinations].
        """
        measured = np.array([[f.p50, f.size_bytes, f.memory_bytes] for f in self.figures], np.float64)
        shares = self._added(options, measured, measured * [0, 1, 1]) / np.maximum(bounds, 1e-12)
        return np.asarray(np.maximum(shares - 1, 0).max(axis=1), np.float64)

    def cost(self, objective: Objective) -> Floats:
        """Return each candidate's cost in the objective, as shares of the float combination's, ties broken by size.

        Returns:
            float64 [candidates].
        """
        running, stored = self._parts(objective)
        return np.asarray(running + stored)

    def costs(self, objective: Objective, options: Sequence[Sequence[int]]) -> Floats:
        """Return the cost of every combination: that of its parts, a file that several stages run stored once.

        Args:
            objective: to be cheap in.
            options: candidate indices by stage.

        Returns:
            float64 [combinations].
        """
        running, stored = self._parts(objective)
        return self._added(options, (running + stored)[:, None], stored[:, None])[:, 0]

    def _parts(self, objective: Objective) -> tuple[Floats, Floats]:
        """Return the shares of each candidate in a cost: of running, which all stages do, and of what a file takes."""
        latencies = self._share(self.tied, (self.figures[i] for i in self.floats))
        if objective in ("size", "memory"):
            return _TIE_WEIGHT * latencies, self._stored(f"{objective}_bytes")
        return latencies, _TIE_WEIGHT * self._stored("size_bytes")

    def _stored(self, figure: str) -> Floats:
        values = np.array([float(getattr(f, figure)) for f in self.figures])
        return self._share(values, once_a_file(self.figures[i] for i in self.floats))

    def _share(self, values: Floats, whole: Iterable[StageFigure]) -> Floats:
        total = sum(values[self._index[figure.candidate]] for figure in whole)
        return np.asarray(values / (total or values.max() or 1.0), np.float64)

    def _added(self, options: Sequence[Sequence[int]], values: Floats, once: Floats) -> Floats:
        """Add up figures of the parts of every combination, some of them once for a file that several stages run.

        Args:
            options: candidate indices by stage.
            values: float64 [candidates, columns].
            once: of these, what counts once a file.
        """
        known = [file for file in self._files if file]
        if len(known) == len(set(known)):
            return sums(options, values)
        return sums(options, values) - repeated(options, once, self._files)

    def _tied(self, figure: StageFigure) -> float:
        """Return the median of the fastest candidate whose interval overlaps this one's: they are a tie."""
        rivals = [f.p50 for f in self._by_stage[figure.stage] if f.p50_ci95[1] >= figure.p50_ci95[0]]
        return min([figure.p50, *rivals])

    def _faster_than_twins(self, figure: StageFigure) -> bool:
        """Whether it is shown to be faster than the unpruned float file and the float file of the same pruning."""
        if figure.is_float:
            return True
        twins = [
            f
            for f in self._by_stage[figure.stage]
            if f.pruning and f.pruning == figure.pruning and f.scheme == FLOAT_SCHEME != figure.scheme
        ]
        return not figure.slower_than_float and all(figure.p50_ci95[1] < f.p50_ci95[0] for f in twins)

    def _beats(self, one: StageFigure, other: StageFigure) -> bool:
        """Whether one is no worse than another in latency, size and memory, and clearly less noisy."""
        if self.fast[self._index[one.candidate]] < self.fast[self._index[other.candidate]]:
            return False
        if one.p50_ci95[0] > other.p50_ci95[1] or one.snr_db < other.snr_db + _CLEARLY_DB:
            return False
        return one.size_bytes <= other.size_bytes and one.memory_bytes <= other.memory_bytes
