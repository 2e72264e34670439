from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from random import Random

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgefuse.compiler.search import Combination, Limits, Search, StageFigure, SubsetDrop
from edgefuse.compiler.search.choices import Choices
from edgefuse.compiler.search.prediction import isotonic
from edgefuse.compiler.search.space import repeated


def figure(
    stage: str, scheme: str, p50_ms: float, size: int, speedup: float = 2.0, spread: float = 0.01
) -> StageFigure:
    return StageFigure(
        stage=stage,
        candidate=f"{stage}.{scheme}",
        scheme=scheme,
        p50=p50_ms,
        p50_ci95=(p50_ms - spread, p50_ms + spread),
        speedup=speedup,
        speedup_ci95=(speedup - 0.05, speedup + 0.05),
        size_bytes=size,
        snr_db=30.0,
        is_float=scheme == "float",
    )


FIGURES = [
    figure("image", "float", 2.0, 400, 1.0),
    figure("image", "static", 1.0, 100, 2.0),
    figure("text", "float", 1.0, 400, 1.0),
    figure("text", "dynamic", 0.5, 110, 2.0),
    figure("text", "tiny", 1.5, 50, 0.67),
]


def test_what_a_file_takes_counts_once_among_the_costs_of_combinations() -> None:
    """Two stages that share a file may store one of 60 for both, and no other file; else 60 twice."""
    figures = [
        msgspec.structs.replace(one, file=file, memory_bytes=one.size_bytes)
        for side in ("left", "right")
        for one, file in (
            (figure(side, "float", 2.0, 100, 1.0), "float.onnx"),
            (figure(side, "static", 1.0, 60, 2.0), "static.onnx"),
            (figure(side, "fp16", 1.0, 50, 2.0), f"{side}.onnx"),
        )
    ]
    choices = Choices(figures)
    for objective in ("size", "memory"):
        options = choices.options(objective)
        costs = {
            tuple(choices.figures[i].scheme for i in indices): cost
            for indices, cost in zip(itertools.product(*options), choices.costs(objective, options), strict=True)
        }
        assert costs["float", "float"] == pytest.approx(1.0, abs=0.01)
        assert costs["static", "static"] == pytest.approx(0.6, abs=0.01)
        assert costs["fp16", "fp16"] == pytest.approx(1.0, abs=0.01)


def test_a_file_that_several_stages_run_is_stored_once() -> None:
    sides = ("left", "middle", "right")
    figures = [
        msgspec.structs.replace(one, file=f"{one.scheme}.onnx", memory_bytes=2 * one.size_bytes)
        for side in sides
        for one in (figure(side, "float", 2.0, 400, 1.0), figure(side, "static", 1.0, 100, 2.0))
    ] + [figure("text", "float", 1.0, 300, 1.0)]
    limits = Limits(max_size_bytes=400, max_memory_bytes=200)
    found = Search(figures, Judge({}), 0.01, ["all"], 24, limits=limits).run()
    winner = found.winners["latency"]
    assert set(winner.candidates.values()) == {*(f"{side}.static" for side in sides), "text.float"}
    assert (winner.size_bytes, winner.memory_bytes, winner.within_budget) == (400, 200, True)
    mixed = next(
        one for one in found.judged if len({*one.candidates.values()} & {f"{s}.float" for s in sides}) in (1, 2)
    )
    assert mixed.size_bytes == 400 + 100 + 300
    files = [one.file for one in figures]
    sizes = np.array([[float(one.size_bytes)] for one in figures])
    options = [[0, 1], [2, 3], [4, 5], [6]]
    expected = [
        sum(sizes[i, 0] for i in row) - sum({files[i]: sizes[i, 0] for i in row}.values())
        for row in itertools.product(*options)
    ]
    assert repeated(options, sizes, files)[:, 0].tolist() == expected


class Judge:
    """Adds up a fixed drop per candidate and counts how often it is asked."""

    def __init__(self, drops: Mapping[str, float], width: float = 0.0) -> None:
        self.drops = drops
        self.width = width
        self.asked: list[dict[str, str]] = []

    def __call__(self, combination: Combination) -> dict[str, SubsetDrop]:
        self.asked.append(dict(combination))
        total = math.fsum(self.drops.get(candidate, 0.0) for candidate in combination.values())
        width = self.width if total else 0.0
        return {"all": SubsetDrop(drop=total, low=total - width, high=total + width)}


def search(judge: Judge, max_drop: float = 0.01, max_passes: int = 24, figures: list[StageFigure] = FIGURES) -> Search:
    return Search(figures, judge, max_drop, ["all"], max_passes)


def test_the_fastest_combination_within_budget_wins() -> None:
    found = search(Judge({})).run()
    assert found.winners["latency"].candidates == {"image": "image.static", "text": "text.dynamic"}
    assert found.winners["latency"].within_budget


def test_a_candidate_that_costs_too_much_is_left_out() -> None:
    found = search(Judge({"image.static": 0.02})).run()
    assert found.winners["latency"].candidates == {"image": "image.float", "text": "text.dynamic"}


def test_parts_that_hold_the_budget_alone_may_break_it_together() -> None:
    found = search(Judge({"image.static": 0.008, "text.dynamic": 0.008})).run()
    assert found.winners["latency"].candidates == {"image": "image.static", "text": "text.float"}


def test_one_standard_error_must_fit_into_the_budget() -> None:
    judge = Judge({"image.static": 0.008}, width=0.006)
    assert search(judge).run().winners["latency"].candidates["image"] == "image.float"


def test_what_is_not_faster_than_float_is_for_size_only() -> None:
    found = search(Judge({})).run()
    assert found.winners["latency"].candidates["text"] == "text.dynamic"
    assert found.winners["size"].candidates == {"image": "image.static", "text": "text.tiny"}


def test_overlapping_intervals_are_a_tie_broken_by_size() -> None:
    figures = [
        figure("text", "float", 2.0, 400, 1.0),
        figure("text", "large", 0.99, 200, spread=0.05),
        figure("text", "small", 1.0, 100, spread=0.05),
    ]
    found = search(Judge({}), figures=figures).run()
    assert found.winners["latency"].candidates == {"text": "text.small"}


def test_an_impossible_budget_still_gives_the_best_there_is() -> None:
    judge = Judge({f.candidate: 0.1 if f.is_float else 0.3 for f in FIGURES})
    winner = search(judge, max_drop=0.0).run().winners["latency"]
    assert not winner.within_budget
    assert winner.candidates == {"image": "image.float", "text": "text.float"}


def test_the_same_figures_give_the_same_choice() -> None:
    drops = {"image.static": 0.004, "text.tiny": 0.007}
    one, other = search(Judge(drops)).run(), search(Judge(drops)).run()
    assert one.winners == other.winners
    assert list(one.judged) == list(other.judged)


def test_a_limit_on_size_rules_out_what_is_faster_but_larger() -> None:
    limits = Limits(max_size_bytes=200)
    figures = [*FIGURES, figure("image", "small", 1.2, 90, 1.6)]
    found = Search(figures, Judge({}), 0.01, ["all"], 24, limits=limits).run()
    assert found.winners["latency"].candidates == {"image": "image.small", "text": "text.dynamic"}
    assert found.winners["latency"].overrun == 0


def test_a_limit_that_nothing_holds_gives_what_misses_it_least() -> None:
    found = Search(FIGURES, Judge({}), 0.01, ["all"], 24, limits=Limits(max_latency_share=0.25)).run()
    winner = found.winners["latency"]
    assert winner.candidates == {"image": "image.static", "text": "text.dynamic"}
    assert not winner.within_budget
    assert winner.overrun == pytest.approx(1.0)


def test_accuracy_is_the_fastest_that_loses_nothing() -> None:
    judge = Judge({"image.static": 0.004})
    found = Search(FIGURES, judge, 0.01, ["all"], 24, objectives=["latency", "accuracy"]).run()
    assert found.winners["latency"].candidates == {"image": "image.static", "text": "text.dynamic"}
    assert found.winners["accuracy"].candidates == {"image": "image.float", "text": "text.dynamic"}


def test_memory_is_an_objective() -> None:
    figures = [msgspec.structs.replace(f, memory_bytes=1000 - int(100 * f.p50)) for f in FIGURES]
    found = Search(figures, Judge({}), 0.01, ["all"], 24, objectives=["memory"]).run()
    assert found.winners["memory"].candidates == {"image": "image.float", "text": "text.tiny"}
    assert found.winners["memory"].memory_bytes == 800 + 850


def test_a_quantized_file_no_faster_than_the_float_one_of_its_pruning_is_for_size_only() -> None:
    pruned = [
        msgspec.structs.replace(figure("image", f"structured50.{scheme}", p50_ms, size, 3.0), pruning="structured50")
        for scheme, p50_ms, size in (("float", 0.7, 200), ("static", 0.7, 50))
    ]
    pruned[0] = msgspec.structs.replace(pruned[0], scheme="float")
    found = search(Judge({}), figures=[*FIGURES, *pruned]).run()
    assert found.winners["latency"].candidates["image"] == "image.structured50.float"
    assert found.winners["size"].candidates["image"] == "image.structured50.static"


def test_what_another_candidate_beats_in_everything_is_never_judged() -> None:
    worse = msgspec.structs.replace(figure("image", "worse", 1.2, 120, 1.6), snr_db=20.0)
    judge = Judge({"image.static": 0.02})
    search(judge, figures=[*FIGURES, worse]).run()
    assert all(combination["image"] != "image.worse" for combination in judge.asked)


Stages = list[list[tuple[float, float, float]]]
STAGES = st.lists(
    st.lists(st.tuples(st.floats(0.1, 5), st.floats(0, 0.05), st.floats(-5, 60)), min_size=1, max_size=6),
    min_size=1,
    max_size=4,
)


def made_up(stages: Stages) -> tuple[list[StageFigure], dict[str, float]]:
    """Return figures and drops of candidates given as latency, drop and signal-to-noise, by stage."""
    figures, drops = [], {}
    for number, candidates in enumerate(stages):
        figures.append(figure(f"s{number}", "float", 3.0, 400, 1.0))
        for index, (p50_ms, drop, snr_db) in enumerate(candidates):
            one = figure(f"s{number}", f"c{index}", p50_ms, 100 + index, 3.0 / p50_ms)
            figures.append(msgspec.structs.replace(one, snr_db=snr_db))
            drops[f"s{number}.c{index}"] = drop
    return figures, drops


@settings(max_examples=60, deadline=None)
@given(STAGES, st.integers(1, 24))
def test_passes_stay_under_the_cap_and_something_is_always_found(stages: Stages, cap: int) -> None:
    figures, drops = made_up(stages)
    judge = Judge(drops)
    found = search(judge, max_passes=cap, figures=figures).run()
    assert found.passes == len(judge.asked) <= cap
    assert set(found.winners) == {"latency", "size"}
    float_ms = sum(f.p50 for f in figures if f.is_float)
    assert found.winners["latency"].p50 <= float_ms
    for winner in found.winners.values():
        assert set(winner.candidates) == {f"s{number}" for number in range(len(stages))}
        assert winner.within_budget
    fast = {f.candidate for f in figures if not f.slower_than_float}
    for judged in found.judged:
        if judged.within_budget and fast.issuperset(judged.candidates.values()):
            assert found.winners["latency"].p50 <= judged.p50 + 0.02 * len(stages)


@settings(max_examples=40, deadline=None)
@given(STAGES, st.randoms(use_true_random=False))
def test_the_order_of_figures_does_not_matter(stages: Stages, random: Random) -> None:
    figures, drops = made_up(stages)
    shuffled = list(figures)
    random.shuffle(shuffled)
    one, other = search(Judge(drops), figures=figures).run(), search(Judge(drops), figures=shuffled).run()
    assert one.winners == other.winners
    assert list(one.judged) == list(other.judged)


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=12))
def test_isotonic_regression_rises_and_keeps_the_mean(values: list[float]) -> None:
    fitted = isotonic(values)
    assert all(a <= b + 1e-12 for a, b in itertools.pairwise(fitted))
    assert sum(fitted) == pytest.approx(sum(values), abs=1e-9)


@pytest.mark.parametrize(("caution", "wanted"), [(1.0, "image.float"), (0.0, "image.static")])
def test_caution_says_how_many_standard_errors_a_drop_must_spare(caution: float, wanted: str) -> None:
    judge = Judge({"image.static": 0.008, "text.dynamic": 0.05}, width=0.012)
    found = Search(FIGURES, judge, 0.01, ["all"], 24, caution=caution).run()
    assert found.winners["latency"].candidates["image"] == wanted


def test_the_rungs_of_a_ladder_get_passes_of_their_own() -> None:
    """Within the budget nothing is faster than 3.0; of what takes less than half of that, the cheapest is judged."""
    stages = {"image": 1.0, "audio": 1.2, "text": 1.5}
    costs = {"float": 0.0, "static": 0.001, "half": 0.012, "third": 0.03, "tenth": 0.2}
    times = {"float": 2.0, "static": 1.0, "half": 0.6, "third": 0.4, "tenth": 0.1}
    snr_db = {"float": 90.0, "static": 40.0, "half": 30.0, "third": 25.0, "tenth": 15.0}
    figures = [
        msgspec.structs.replace(figure(stage, name, p50, 100, 1.0 if name == "float" else 2.0), snr_db=snr_db[name])
        for stage in stages
        for name, p50 in times.items()
    ]
    judge = Judge({one.candidate: stages[one.stage] * costs[one.scheme] for one in figures})
    rows = list(itertools.product(*[[one for one in figures if one.stage == stage] for stage in stages]))
    for order in (figures, figures[::-1]):
        asked = Search(order, judge, 0.01, ["all"], 32, relaxed=(), shares=(0.7, 0.5)).run()
        assert asked.winners["latency"].p50 == pytest.approx(3.0)
        assert asked.passes <= 32
        for most in (0.7 * 3.0 + 1e-9, 0.5 * 3.0 + 1e-9):
            best = min(
                sum(judge.drops[one.candidate] for one in row) for row in rows if sum(o.p50 for o in row) <= most
            )
            assert min(one.worst_drop for one in asked.judged if one.p50 <= most) <= best + 0.005
