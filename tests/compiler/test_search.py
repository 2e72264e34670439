from __future__ import annotations

from collections.abc import Mapping

from hypothesis import given, settings
from hypothesis import strategies as st

from edgefuse.compiler.search import Combination, Search, StageFigure, SubsetDrop


def figure(
    stage: str, scheme: str, p50_ms: float, size: int, speedup: float = 2.0, spread: float = 0.01
) -> StageFigure:
    return StageFigure(
        stage=stage,
        candidate=f"{stage}.{scheme}",
        scheme=scheme,
        p50_ms=p50_ms,
        p50_ci_ms=(p50_ms - spread, p50_ms + spread),
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


class Judge:
    """Adds up a fixed drop per candidate and counts how often it is asked."""

    def __init__(self, drops: Mapping[str, float], width: float = 0.0) -> None:
        self.drops = drops
        self.width = width
        self.asked: list[dict[str, str]] = []

    def __call__(self, combination: Combination) -> dict[str, SubsetDrop]:
        self.asked.append(dict(combination))
        total = sum(self.drops.get(candidate, 0.0) for candidate in combination.values())
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


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.lists(st.tuples(st.floats(0.1, 5), st.floats(0, 0.05)), min_size=1, max_size=4), min_size=1, max_size=4
    ),
    st.integers(1, 12),
)
def test_passes_stay_under_the_cap_and_something_is_always_found(
    stages: list[list[tuple[float, float]]], cap: int
) -> None:
    figures, drops = [], {}
    for number, candidates in enumerate(stages):
        figures.append(figure(f"s{number}", "float", 3.0, 400, 1.0))
        for index, (p50_ms, drop) in enumerate(candidates):
            figures.append(figure(f"s{number}", f"c{index}", p50_ms, 100 + index, 3.0 / p50_ms))
            drops[f"s{number}.c{index}"] = drop
    judge = Judge(drops)
    found = search(judge, max_passes=cap, figures=figures).run()
    assert found.passes == len(judge.asked) <= cap
    assert set(found.winners) == {"latency", "size"}
    for winner in found.winners.values():
        assert set(winner.candidates) == {f"s{number}" for number in range(len(stages))}
