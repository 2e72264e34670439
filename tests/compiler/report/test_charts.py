"""The geometry of the report's charts, on invented combinations."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from edgefuse.compiler.report.charts import HEIGHT, LEFT, RIGHT, TOP, WIDTH, frontier, round_values, scatter
from edgefuse.compiler.report.part import Gain
from edgefuse.compiler.report.schema import BudgetReport, JudgedReport, RungReport, StageChoice

POINT = BudgetReport(max_drop=0.01)
finite = st.floats(-1e6, 1e6)


def combination(scheme: str, p50_ms: float, drop: float, size_bytes: int = 1_000_000) -> JudgedReport:
    return JudgedReport(
        target="onnx",
        stages={"encoder": scheme},
        p50=p50_ms,
        size_bytes=size_bytes,
        drop={"audio": drop, "image": drop / 2},
        within_budget=drop <= 0.01,
    )


def rung(name: str, scheme: str) -> RungReport:
    return RungReport(
        name=name,
        objective="latency",
        stages={"frontend": StageChoice(scheme="float"), "encoder": StageChoice(scheme=scheme)},
        accuracy={},
        drop_ci95={},
        p50=1.0,
        speedup=Gain(ratio=1.0),
        speedup_over_float=Gain(ratio=1.0),
        size_bytes=1,
        size_ratio=1.0,
    )


def test_the_chosen_are_named_by_their_schemes_and_drawn_last() -> None:
    judged = [combination("static", 1.0, 0.009), combination("dynamic", 1.01, 0.0088), combination("float", 2.0, 0.0)]
    plot = scatter(judged, [rung("fastest", "static"), rung("smallest", "dynamic"), rung("again", "dynamic")], POINT)
    assert [mark.chosen_by for mark in plot.marks] == [(), ("fastest",), ("smallest", "again")]


def test_labels_of_neighbours_are_pushed_apart() -> None:
    judged = [combination("static", 1.0, 0.009), combination("dynamic", 1.01, 0.0088)]
    first, second = scatter(judged, [rung("fastest", "static"), rung("smallest", "dynamic")], POINT).marks
    assert abs(first.y - second.y) < 18 <= abs(first.label_y - second.label_y)


def test_a_hopeless_combination_stands_at_the_edge_and_flattens_nothing() -> None:
    good, hopeless = combination("static", 1.0, 0.005), combination("dynamic", 0.5, 0.9)
    plot = scatter([good, hopeless], [], POINT)
    assert [mark.clipped for mark in plot.marks if mark.judged is hopeless] == [True]
    assert max(tick.value for tick in plot.y_ticks) < 0.03
    assert len(plot.frontier) == 1


def test_a_share_of_the_reference_is_drawn_as_such() -> None:
    budget = BudgetReport(max_drop=2.0, share=0.02, limits={"all": 2.0}, search_limits={"all": 4.0, "half": 100.0})
    item = replace(combination("static", 1.0, 0.0), drop={"all": 2.0, "half": 60.0})
    plot = scatter([item], [], budget)
    (mark,) = plot.marks
    assert mark.worst == ("half", 60.0)  # 1.2 % of what the reference reaches there, and 1 % in the other
    assert plot.budget_y is not None
    assert mark.y > plot.budget_y  # within


def test_area_stands_for_size() -> None:
    small, large = combination("a", 1.0, 0.0, 250_000), combination("b", 1.0, 0.0, 1_000_000)
    radii = {mark.judged.size_bytes: mark.radius for mark in scatter([small, large], [], None).marks}
    assert radii[1_000_000] == 2 * radii[250_000]


def test_a_single_combination_without_a_budget_has_axes() -> None:
    plot = scatter([combination("float", 0.0, 0.0)], [], None)
    assert plot.budget_y is None
    assert plot.x_ticks
    assert plot.y_ticks


def test_the_frontier_is_what_nothing_beats() -> None:
    assert frontier([(3, 1), (1, 5), (2, 5), (2, 3), (4, 2)]) == ((1, 5), (2, 3), (3, 1))


@settings(max_examples=100)
@given(low=finite, span=st.floats(1e-3, 1e6))
def test_ticks_are_within_their_axis_and_evenly_spaced(low: float, span: float) -> None:
    values = round_values(low, low + span)
    assert 2 <= len(values) <= 7
    slack = 1e-6 * (span + abs(low))
    assert all(low - slack <= value <= low + span + slack for value in values)
    steps = [after - before for before, after in itertools.pairwise(values)]
    assert max(steps) - min(steps) <= slack


@settings(max_examples=50)
@given(points=st.lists(st.tuples(st.floats(0.01, 1e3), st.floats(-0.5, 1.0)), min_size=1, max_size=20))
def test_every_mark_stands_within_the_picture(points: list[tuple[float, float]]) -> None:
    plot = scatter([combination("float", *point) for point in points], [], POINT)
    assert len(plot.marks) == len(points)
    assert all(LEFT <= mark.x <= WIDTH - RIGHT and TOP <= mark.y <= HEIGHT for mark in plot.marks)


@pytest.mark.parametrize(("latencies", "left"), [((1.0, 10.0), True), ((10.0, 1.0), False)])
def test_labels_turn_inward_at_the_right_edge(latencies: tuple[float, float], left: bool) -> None:
    chosen, other = latencies[1], latencies[0]
    judged = [combination("static", chosen, 0.0), combination("float", other, 0.0)]
    plot = scatter(judged, [rung("fastest", "static")], None)
    assert plot.marks[-1].label_left is left
