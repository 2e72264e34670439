"""Predict the drop of a combination from those of the combinations judged before.

Each candidate has an effect per subset: what it adds to the drop. Before anything is known of it, a monotone curve
over the noise of its stage's output gives the effect (isotonic regression over the stage's candidates judged alone;
pool adjacent violators, Ayer et al. 1955). Every judged combination then corrects the effects of its parts by a
Bayesian linear regression; candidates of one pruning share most of the correction, those of one stage some.
Errors of several stages add up to less than their sum: a ratio, fitted to the combinations, shrinks it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgefuse.compiler.search.figures import Floats, StageFigure

# How far the effects of two candidates of a stage go together: of the same pruning, and of different ones.
_SAME_PRUNING, _SAME_STAGE = 0.9, 0.5
# Standard deviations as shares of the scale: of an effect of which nothing is known (besides half of itself), of what
# a candidate alone shows, of what several do together.
_UNKNOWN, _ALONE, _TOGETHER = 0.1, 0.05, 0.15
_RATIO_RANGE = (0.3, 1.5)


@dataclass(frozen=True)
class Effects:
    """The effects of candidates on the drop.

    Attributes:
        mean: float64 [candidates, subsets].
        variance: float64 [candidates].
        ratio: of a combination's drop over the sum of its parts' effects.
    """

    mean: Floats
    variance: Floats
    ratio: float


class DropModel:
    """Learns effects from judged combinations.

    Args:
        figures: all candidates.
        scale: what counts as a large drop: the budget.
    """

    def __init__(self, figures: Sequence[StageFigure], scale: float) -> None:
        self._scale = scale
        self._noise = np.array([figure.noise for figure in figures])
        self._float = np.array([figure.is_float for figure in figures])
        self._stage = [figure.stage for figure in figures]
        pruning = [figure.pruning for figure in figures]
        stages, prunings = np.array(self._stage), np.array(pruning)
        same = stages[:, None] == stages[None, :]
        self._correlation = np.where(same, _SAME_STAGE, 0.0)
        self._correlation[same & (prunings[:, None] == prunings[None, :]) & (prunings[:, None] != "")] = _SAME_PRUNING
        np.fill_diagonal(self._correlation, 1.0)

    def residual_variance(self, parts: Floats) -> Floats:
        """Return how unsure the drop of combinations is when all effects are known, by their number of stages."""
        return np.where(parts == 0, 1e-12, np.where(parts == 1, _ALONE, _TOGETHER) ** 2) * self._scale**2

    def fit(self, combinations: Sequence[Sequence[int]], drops: Floats) -> Effects:
        """Learn from the combinations that were judged.

        Args:
            combinations: candidate indices, one per stage.
            drops: float64 [combinations, subsets], the float combination's subtracted.
        """
        design = np.array([self._row(indices) for indices in combinations])
        parts = design.sum(axis=1)
        single = parts == 1
        prior = self._prior(design[single], drops[single])
        alone = self._posterior(prior, design[single], drops[single], np.full(int(single.sum()), _ALONE))
        ratio = self._ratio(design[parts > 1] @ alone.mean, drops[parts > 1])
        noise = np.where(parts > 1, _TOGETHER, _ALONE)
        scaled = design * np.where(parts > 1, ratio, 1.0)[:, None]
        found = self._posterior(prior, scaled, drops, noise)
        return Effects(found.mean, found.variance, ratio)

    def _row(self, indices: Sequence[int]) -> Floats:
        chosen = [i for i in indices if not self._float[i]]
        row = np.zeros(len(self._noise))
        row[chosen] = 1.0
        return row

    def _prior(self, design: Floats, drops: Floats) -> Floats:
        """Return the effects that the noise alone suggests, float64 [candidates, subsets]."""
        which = design.argmax(axis=1) if len(design) else np.zeros(0, int)
        known = {int(i): np.maximum(drop, 0.0) for i, drop in zip(which, drops, strict=True)}
        slopes = [drop / self._noise[i] for i, drop in known.items() if self._noise[i] > 0]
        slope = np.median(slopes, axis=0) if slopes else np.zeros(drops.shape[1])
        prior = self._noise[:, None] * slope[None, :]
        for stage in dict.fromkeys(self._stage):
            own = [i for i, name in enumerate(self._stage) if name == stage]
            points = sorted((i for i in own if i in known), key=lambda i: (self._noise[i], i))
            if points:
                levels = np.array([known[i] for i in points])
                prior[own] = _curve(self._noise[points], levels, self._noise[own])
        prior[self._float] = 0.0
        return prior

    def _posterior(self, prior: Floats, design: Floats, drops: Floats, noise: Floats) -> Effects:
        """Correct prior effects by observations: Bayesian linear regression, the same covariance in all subsets."""
        spread = 0.5 * prior.max(axis=1) + _UNKNOWN * self._scale
        spread[self._float] = 0.0
        covariance = self._correlation * np.outer(spread, spread)
        gain = covariance @ design.T
        inner = design @ gain + np.diag((noise * self._scale) ** 2)
        weights = np.linalg.solve(inner, gain.T).T
        variance = np.maximum(np.diag(covariance) - (weights * gain).sum(axis=1), 0.0)
        return Effects(prior + weights @ (drops - design @ prior), variance, 1.0)

    def _ratio(self, sums: Floats, drops: Floats) -> float:
        """Fit observed = ratio x sum, drawn towards 1 as if a combination had lost the scale, as predicted."""
        prior = self._scale**2
        ratio = (prior + float((sums * drops).sum())) / (prior + float((sums * sums).sum()))
        return min(max(ratio, _RATIO_RANGE[0]), _RATIO_RANGE[1])


def _curve(noise: Floats, levels: Floats, wanted: Floats) -> Floats:
    """Interpolate a rising curve through (0, 0) and the known levels; beyond the noisiest it goes on in proportion.

    Args:
        noise: float64 [known], rising.
        levels: float64 [known, subsets].
        wanted: float64 [candidates].
    """
    columns = []
    for column in levels.T:
        steps = np.array([0.0, *isotonic(column)])
        inside = np.interp(wanted, [0.0, *noise], steps)
        columns.append(np.where(wanted > noise[-1], steps[-1] * wanted / max(noise[-1], 1e-12), inside))
    return np.stack(columns, axis=1)


def isotonic(values: Sequence[float] | Floats) -> list[float]:
    """Return the closest sequence that never falls, in the least-squares sense: pool adjacent violators."""
    blocks: list[tuple[float, int]] = []
    for value in values:
        total, count = float(value), 1
        while blocks and blocks[-1][0] / blocks[-1][1] >= total / count:
            total, count = total + blocks[-1][0], count + blocks[-1][1]
            blocks.pop()
        blocks.append((total, count))
    return [total / count for total, count in blocks for _ in range(count)]
