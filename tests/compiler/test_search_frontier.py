from __future__ import annotations

from itertools import pairwise

from edgefuse.compiler.search import Judged, Objective
from edgefuse.compiler.search.frontier import Apart, front, ladder

BUDGET = 0.01


def judged(name: str, p50_ms: float, size: int, drop: float) -> Judged:
    return Judged(
        candidates={"model": name}, p50=p50_ms, size_bytes=size, drops={}, worst_drop=drop, excess=drop - BUDGET
    )


FLOAT = judged("float", 10.0, 1000, 0.0)
BEST = judged("best", 4.0, 300, 0.009)
SMALL = judged("small", 6.0, 200, 0.008)
CLEAN = judged("clean", 5.0, 320, 0.0)
STEP = judged("step", 3.0, 250, 0.02)
NEAR = judged("near", 2.95, 250, 0.03)
LAST = judged("last", 2.0, 240, 0.05)
BROKEN = judged("broken", 1.0, 100, 0.6)
ALL = [FLOAT, BEST, SMALL, CLEAN, STEP, NEAR, LAST, BROKEN]
WINNERS: dict[Objective, Judged] = {"latency": BEST, "size": SMALL, "accuracy": CLEAN}


def names(rungs: list[tuple[str, Judged]]) -> list[tuple[str, str]]:
    return [(name, rung.candidates["model"]) for name, rung in rungs]


def test_the_front_leaves_out_what_another_one_beats_in_everything() -> None:
    beaten = judged("beaten", 5.0, 320, 0.009)
    assert [j.candidates["model"] for j in front([beaten, FLOAT, *ALL[1:4]])] == ["best", "clean", "small"]


def test_a_drop_below_zero_is_luck_and_no_gain() -> None:
    lucky = judged("lucky", 11.0, 1000, -0.01)
    assert front([FLOAT, lucky]) == [FLOAT]


def test_the_ladder_steps_down_to_faster_rungs_at_a_price() -> None:
    assert names(ladder(ALL, WINNERS)) == [
        ("fast", "best"),
        ("reduced-1", "step"),
        ("reduced-2", "last"),
        ("small", "small"),
        ("accurate", "clean"),
    ]


def test_the_objective_of_the_recipe_comes_first() -> None:
    rungs = names(ladder(ALL, WINNERS, default="size"))
    assert rungs[0] == ("small", "small")
    assert ("fast", "best") in rungs


def test_winners_that_hardly_differ_are_no_rungs_of_their_own() -> None:
    close = judged("close", 4.1, 290, 0.009)
    assert names(ladder([FLOAT, BEST, close], {"latency": BEST, "size": close})) == [("fast", "best")]


def test_a_short_ladder_keeps_the_steps_that_gain_most() -> None:
    assert names(ladder(ALL, WINNERS, most=4)) == [
        ("fast", "best"),
        ("reduced-1", "last"),
        ("small", "small"),
        ("accurate", "clean"),
    ]


def stepped(judged: list[Judged], ratio: float = 1.3, down_to: float = 0.5, most: int = 6) -> list[tuple[str, str]]:
    rungs = ladder(judged, {"latency": BEST}, most=most, apart=Apart(ratio, down_to))
    assert all(above.p50 >= ratio * below.p50 for (_, above), (_, below) in pairwise(rungs))
    return names(rungs)


def test_the_rungs_of_a_ladder_are_apart_and_go_down_to_half_of_the_time() -> None:
    further = [judged(f"j{p50}", p50, 200, drop) for p50, drop in ((3.8, 0.012), (2.6, 0.024), (1.4, 0.07))]
    assert stepped([*ALL, *further]) == [("fast", "best"), ("reduced-1", "step"), ("reduced-2", "last")]
    assert stepped([*ALL, *further], down_to=0.35)[-1] == ("reduced-3", "j1.4")


def test_half_of_the_time_comes_before_a_smaller_price_on_the_way() -> None:
    near_half = [judged("two thirds", 2.5, 200, 0.02), judged("half", 1.95, 200, 0.05)]
    assert stepped([BEST, *near_half]) == [("fast", "best"), ("reduced-1", "half")]


def test_where_nothing_is_fast_enough_the_ladder_ends_at_the_fastest() -> None:
    assert stepped([BEST, STEP, NEAR, judged("broken", 1.0, 100, 0.6)]) == [("fast", "best"), ("reduced-1", "near")]
    assert stepped([BEST, judged("close", 3.5, 200, 0.02)]) == [("fast", "best")]
    assert stepped([*ALL], most=2) == [("fast", "best"), ("reduced-1", "last")]
