"""The candidates that a search chooses from: ties, float twins, and the removal of dominated ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgefuse.compiler.search.figures import FLOAT_SCHEME, Combination, Floats, Objective, StageFigure

# How much the second criterion weighs in the cost of the first: it decides between ties, nothing else.
_TIE_WEIGHT = 1e-3
# Signal-to-noise tells what a candidate loses to about this much: only a clearly noisier candidate is dominated.
_CLEARLY_DB = 3.0


class Candidates:
    """The figures of all candidates in a fixed order, whatever the order they came in.

    Args:
        figures: measured candidates, every stage with its unpruned float one.

    Attributes:
        figures: by stage name, then candidate id.
        stages: stage names in the caller's order.
        members: the indices of a stage's candidates that are worth choosing, by stage, in the order of names.
    """

    def __init__(self, figures: Sequence[StageFigure]) -> None:
        self.stages = list(dict.fromkeys(figure.stage for figure in figures))
        self.figures = sorted(figures, key=lambda figure: (figure.stage, figure.candidate))
        self.index = {figure.candidate: number for number, figure in enumerate(self.figures)}
        self._by_stage = {s: [f for f in self.figures if f.stage == s] for s in sorted(self.stages)}
        self.tied = np.array([self._tied(figure) for figure in self.figures])
        self.fast = np.array([self._faster_than_twins(figure) for figure in self.figures])
        self.members = [
            [self.index[f.candidate] for f in own if f.is_float or not any(self._beats(o, f) for o in own)]
            for own in self._by_stage.values()
        ]

    def floats(self) -> Combination:
        """Return the combination of the unpruned float files."""
        return {figure.stage: figure.candidate for figure in self.figures if figure.is_float}

    def combination(self, indices: Sequence[int]) -> Combination:
        """Return stage to candidate, in the caller's order of stages."""
        by_stage = {self.figures[i].stage: self.figures[i].candidate for i in indices}
        return {stage: by_stage[stage] for stage in self.stages}

    def indices(self, combination: Combination) -> tuple[int, ...]:
        """Return a combination as indices, in the order of stage names."""
        return tuple(self.index[combination[stage]] for stage in self._by_stage)

    def options(self, objective: Objective) -> list[list[int]]:
        """Return the candidates of each stage that an objective may choose: for latency, those faster than float."""
        return [[i for i in own if objective in ("size", "memory") or self.fast[i]] for own in self.members]

    def cost(self, objective: Objective) -> Floats:
        """Return each candidate's cost in the objective, as shares of the float combination's, ties broken by size.

        Returns:
            float64 [candidates].
        """
        sizes = self._share(np.array([float(f.size_bytes) for f in self.figures]))
        latencies = self._share(self.tied)
        if objective == "size":
            return sizes + _TIE_WEIGHT * latencies
        if objective == "memory":
            return self._share(np.array([float(f.memory_bytes) for f in self.figures])) + _TIE_WEIGHT * latencies
        return latencies + _TIE_WEIGHT * sizes

    def _share(self, values: Floats) -> Floats:
        total = sum(value for value, figure in zip(values, self.figures, strict=True) if figure.is_float)
        return np.asarray(values / (total or values.max() or 1.0), np.float64)

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
        if self.fast[self.index[one.candidate]] < self.fast[self.index[other.candidate]]:
            return False
        if one.p50_ci95[0] > other.p50_ci95[1] or one.snr_db < other.snr_db + _CLEARLY_DB:
            return False
        return one.size_bytes <= other.size_bytes and one.memory_bytes <= other.memory_bytes
