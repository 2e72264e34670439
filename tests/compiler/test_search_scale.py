"""The search against the exhaustive optimum, on made-up models whose stages interact and whose drops are noisy."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pytest

from edgefuse.compiler.search import Combination, Search, SearchResult, StageFigure, SubsetDrop

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

PRUNINGS = {
    "": (1.0, 1.0),
    "structured25": (0.78, 0.6),
    "structured50": (0.55, 0.3),
    "depth50-structured50": (0.35, 0.2),
}
SCHEMES = {"float": (1.0, 1.0), "static_wi8_ai8.u8": (0.5, 0.25), "dynamic_wi8_af32": (0.75, 0.25)}
ITEMS = 1000
BUDGET = 0.01


@dataclass
class World:
    """A model of `modalities` encoders and a fusion, with 12 candidates each, that nobody trained.

    What a stage's candidate loses rises with its noise, by a factor that its signal-to-noise does not tell; losses
    saturate when they add up; two pruned stages cost more or less together; and every combination has its own luck.
    """

    modalities: int
    seed: int
    figures: list[StageFigure] = field(init=False)

    def __post_init__(self) -> None:
        rng = np.random.default_rng([self.modalities, self.seed])
        self.stages = [*(f"encoder{number}" for number in range(self.modalities)), "fusion"]
        self.figures, losses = [], []
        for stage in self.stages:
            float_ms, size, sensitivity = rng.uniform(0.2, 2.0), int(rng.uniform(1e5, 5e6)), rng.lognormal(0, 0.7)
            for pruning, scheme in itertools.product(PRUNINGS, SCHEMES):
                (fast, small), (faster, smaller) = PRUNINGS[pruning], SCHEMES[scheme]
                is_float = not pruning and scheme == "float"
                harm = (1 - fast) ** 2 * rng.lognormal(0, 0.4) + (1 - faster) ** 2 * 0.3 * rng.lognormal(0, 0.6)
                losses.append(0.0 if is_float else 0.015 * sensitivity * harm)
                p50_ms = float_ms * fast * faster * (1.0 if is_float else rng.lognormal(0, 0.08))
                self.figures.append(
                    StageFigure(
                        stage=stage,
                        candidate=f"{stage}.{pruning}.{scheme}",
                        scheme=scheme,
                        pruning=pruning,
                        p50=p50_ms,
                        p50_ci95=(p50_ms * 0.99, p50_ms * 1.01),
                        speedup=float_ms / p50_ms,
                        speedup_ci95=(float_ms / p50_ms * 0.985, float_ms / p50_ms * 1.015),
                        size_bytes=int(size * small * smaller),
                        snr_db=120.0 if is_float else 12 - 10 * np.log10(harm) + rng.normal(0, 2),
                        is_float=is_float,
                    )
                )
        self.losses = np.array(losses).reshape(len(self.stages), -1)
        self.pairs = np.triu(rng.normal(0, 0.15, (len(self.stages), len(self.stages))), 1)
        self.subsets = ["all", *self.stages[:-1]]
        self.asked = 0

    def drops(self, chosen: Integers) -> Floats:
        """Return what combinations lose, float64 [combinations, subsets], from candidate numbers by stage."""
        parts = np.stack([self.losses[stage, chosen[:, stage]] for stage in range(len(self.stages))], axis=1)
        pairs = np.einsum("ni,ij,nj->n", np.sqrt(parts), self.pairs, np.sqrt(parts))
        position = np.ravel_multi_index(tuple(chosen.T), (self.losses.shape[1],) * len(self.stages))
        columns = []
        for number in range(len(self.subsets)):
            whole = parts.sum(axis=1) if number == 0 else 1.3 * parts[:, number - 1] + 0.8 * parts[:, -1]
            smooth = 0.3 * (1 - np.exp(-np.maximum(whole + (pairs if number == 0 else 0.0), 0.0) / 0.3))
            luck = 0.0015 * np.sin(12.9898 * position + 78.233 * (number + self.seed)) * (whole > 0)
            columns.append(np.round((smooth + luck) * ITEMS) / ITEMS)
        return np.stack(columns, axis=1)

    def standard_errors(self, drops: Floats) -> Floats:
        return np.sqrt((np.abs(drops) + 0.001) / ITEMS)

    def judge(self, combination: Combination) -> dict[str, SubsetDrop]:
        self.asked += 1
        names = [[f.candidate for f in self.figures if f.stage == stage] for stage in self.stages]
        chosen = np.array([[own.index(combination[stage]) for stage, own in zip(self.stages, names, strict=True)]])
        drops = self.drops(chosen)[0]
        errors = 1.96 * self.standard_errors(drops)
        return {
            subset: SubsetDrop(drop=float(drop), low=float(drop - error), high=float(drop + error))
            for subset, drop, error in zip(self.subsets, drops, errors, strict=True)
        }

    def search(self, cap: int = 24) -> SearchResult:
        return Search(self.figures, self.judge, BUDGET, self.subsets, cap, leaves=self.stages[:-1]).run()

    def optimum_ms(self) -> float:
        """Try every combination: the latency of the fastest one that holds the budget with an error to spare."""
        chosen = np.stack(
            [
                axis.ravel()
                for axis in np.meshgrid(*[np.arange(self.losses.shape[1])] * len(self.stages), indexing="ij")
            ],
            axis=1,
        )
        p50 = np.array([f.p50 for f in self.figures]).reshape(self.losses.shape)
        latency = sum(p50[stage, chosen[:, stage]] for stage in range(len(self.stages)))
        best = np.inf
        for part in np.array_split(np.argsort(latency), max(1, len(chosen) // 20_000)):
            drops = self.drops(chosen[part])
            cautious = drops + self.standard_errors(drops) - self.standard_errors(np.zeros(1))
            held = cautious.max(axis=1) <= BUDGET
            if held.any():
                best = float(np.asarray(latency)[part][held].min())
                break
        return best


@pytest.mark.parametrize(("modalities", "worst"), [(2, 1.2), (3, 1.25)])
def test_few_passes_find_nearly_what_all_combinations_hold(modalities: int, worst: float) -> None:
    ratios = []
    for seed in range(6):
        world = World(modalities, seed)
        ratios.append(world.search().winners["latency"].p50 / world.optimum_ms())
    # The optimum knows the luck of each of up to 20,736 combinations; the search asked for 24.
    assert np.mean(ratios) < 1.1
    assert max(ratios) < worst


def test_more_passes_come_closer_with_five_modalities() -> None:
    ratios: dict[int, list[float]] = {24: [], 64: []}
    for seed in range(2):
        optimum_ms = World(5, seed).optimum_ms()
        for cap, found in ratios.items():
            found.append(World(5, seed).search(cap).winners["latency"].p50 / optimum_ms)
    assert np.mean(ratios[64]) < 1.06
    assert np.mean(ratios[64]) <= np.mean(ratios[24]) < 1.2


@pytest.mark.parametrize("modalities", [2, 3, 5])
@pytest.mark.parametrize("cap", [24, 64])
def test_encoder_passes_are_a_sum_and_fusion_passes_stay_under_the_cap(modalities: int, cap: int) -> None:
    world = World(modalities, 0)
    found = world.search(cap)
    assert found.encoder_passes == 12 * modalities
    assert found.passes == len(found.judged) == world.asked <= cap
    assert found.winners["latency"].within_budget
