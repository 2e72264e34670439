"""What the sections of the report page say."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from edgefuse.compiler.report.curves import curves
from edgefuse.compiler.report.encoding import parse
from edgefuse.compiler.report.tables import ladder, sensitivities, time_bars, totals
from edgefuse.compiler.report.text import with_caution

Shown = Callable[[dict[str, Any]], Any]


def test_every_cell_of_the_matrix_carries_its_interval(full: dict[str, Any], outline: Any) -> None:
    tips = [attributes["title"] for tag, attributes in outline.tags if tag == "td" and "title" in attributes]
    assert len(tips) == len(full["reference"]["accuracy"]) * 4
    assert tips[0] == "image+audio+text: drop 0.10 points, 95 % interval −0.20 to 0.40"


def test_a_drop_beyond_the_budget_is_framed_and_named(full: dict[str, Any], shown: Shown) -> None:
    full["bundles"][0]["rungs"][0]["accuracy"]["audio"] -= 0.03
    over = [
        attributes
        for tag, attributes in shown(full).tags
        if tag == "td" and "over" in str(attributes.get("class")).split()
    ]
    assert [cell["title"] for cell in over] == ["audio: drop 3.80 points, 95 % interval 0.50 to 1.10, over budget"]


def test_a_drop_of_exactly_the_budget_keeps_it(full: dict[str, Any], shown: Shown) -> None:
    full["budget"]["max_drop"] = 0.008
    titles = [attributes.get("title") or "" for _, attributes in shown(full).tags]
    assert not any(", over budget" in title for title in titles)


def test_where_nothing_may_be_lost_a_drop_of_half_a_point_is_marked(full: dict[str, Any], shown: Shown) -> None:
    full["budget"]["max_drop"] = 0.0
    found = {
        attributes["title"]: "over" in str(attributes.get("class")).split()
        for tag, attributes in shown(full).tags
        if tag == "td" and "drop" in (attributes.get("title") or "")
    }
    drops = {title: float(re.findall(r"drop (\S+) points", title)[0].replace("\u2212", "-")) for title in found}
    assert any(0 < drop < 1 for drop in drops.values())
    assert {title for title, marked in found.items() if marked} == {title for title, drop in drops.items() if drop > 0}


@pytest.mark.parametrize(
    ("caution", "says"),
    [(0.0, "its drop does."), (1.0, "its drop plus one standard error does."), (2.5, "plus 2.5 standard errors does.")],
)
def test_the_method_says_with_which_caution_was_searched(caution: float, says: str) -> None:
    assert f"its drop{with_caution(caution)} does.".endswith(says)


def test_what_was_missed_stands_on_top_with_its_amount(full: dict[str, Any], shown: Shown) -> None:
    full["bundles"][0]["constraints"] = [
        {
            "rung": "fastest",
            "what": "drop in audio",
            "limit": 0.01,
            "value": 0.014,
            "unit": "accuracy",
            "excess": 0.004,
        },
        {"rung": "fastest", "what": "latency", "limit": 5.0, "value": 1.6, "unit": "ms"},
    ]
    text = shown(full).text
    assert "ONNX fastest : drop in audio: 1.40 points, 0.40 points over the limit of 1.00 points" in text
    assert "latency: 1.60 ms" not in text
    assert text.index("Limits that were missed") < text.index("Operating points")


def test_a_modality_shows_what_it_costs_and_what_it_is_worth(full: dict[str, Any], outline: Any) -> None:
    assert "Cost and worth of each modality" in outline.text
    assert "image image_ encoder 0.480 1.20, 2.5× 800 kB 2.00 MB, 2.5× 40 M 3.60 MB 9.00 MB, 2.5×" in outline.text
    assert "94.40 94.75 3.60 3.35 80.75 81.20 0.42" in outline.text
    before, after = totals(parse(full))["onnx"]
    assert before.p50 == pytest.approx(3 * 1.2 + 0.24)
    assert after.mac == 4 * 40_000_000
    full["bundles"][0]["float_size_bytes"] = 3_000_000  # of less than the lines together: a file that two of them run
    assert totals(parse(full))["onnx"][0].size_bytes == 3_000_000


def test_the_ladder_tells_the_price_of_every_step(full: dict[str, Any], outline: Any) -> None:
    full["bundles"][0]["rungs"][1]["accuracy"]["audio"] -= 0.002
    full["bundles"][0]["rungs"][1]["stages"]["image_encoder"] = {"scheme": "float", "pruning": "structured50"}
    report = parse(full)
    first, second = ladder(report, report.bundles[0])
    assert (first.saved, first.extra_drop) == (None, None)
    assert second.saved == pytest.approx(report.bundles[0].rungs[0].p50 - report.bundles[0].rungs[1].p50)
    assert second.extra_drop == pytest.approx(0.002)
    assert second.worst[0] == "audio"
    assert second.worst[1] == pytest.approx(0.010)
    assert second.runs[0] == ("image_encoder", "structured50", "float")
    assert "image_encoder: static_wi8_ai8.u8" in outline.text


def test_float_layers_are_summed_up_with_their_reasons(outline: Any) -> None:
    assert "ONNX: 6 operators, 2 M MAC of 160 M" in outline.text
    assert "MatMul 4 2 M product of two activations" in outline.text


def test_a_recovery_is_drawn_from_the_pruned_stage_to_what_was_kept(full: dict[str, Any], outline: Any) -> None:
    assert "image_encoder structured50: 31.00 → 86.00 % after 2 epochs" in outline.text
    (curve,) = curves(parse(full).recoveries)
    assert curve.kept.epoch == 2
    assert curve.best == curve.line[2]
    assert curve.line[0][1] > curve.line[2][1]  # pictures count from the top


def test_a_recovery_of_several_outputs_shows_in_percent_what_is_kept_of_them(
    full: dict[str, Any], shown: Shown
) -> None:
    reference = full["reference"]
    reference |= {"metric": "mae", "lower_is_better": True}
    reference["outputs"] = {"kind": {"metric": "accuracy", "accuracy": dict(reference["accuracy"])}}
    for bundle in full["bundles"]:
        for rung in bundle["rungs"]:
            rung["outputs"] = {"kind": {"accuracy": rung["accuracy"], "drop_ci95": rung["drop_ci95"]}}
    text = shown(full).text
    assert "What is kept of the metrics of all outputs, 100 % where nothing is lost: the mean over all subsets" in text
    assert "image_encoder structured50: 31.00 → 86.00 % after 2 epochs" in text


def test_the_search_shows_its_counters_and_its_front(outline: Any) -> None:
    assert "44 candidates were built and measured; 26 encoder passes" in outline.text
    assert "96 fusion passes over kept features, of at most 128, in 171 seconds" in outline.text
    assert "The front: 1 combinations" in outline.text
    assert "ONNX 1.61 2.30 MB 0.80 audio yes fastest image_encoder.static_wi8_ai8.u8" in outline.text


def test_pruned_forms_have_lines_of_their_own(full: dict[str, Any], shown: Shown) -> None:
    pruned = full["stages"][1] | {
        "candidate": "image_encoder.structured50.float",
        "scheme": "float",
        "pruning": "structured50",
        "pruned": 0.5,
        "recovery": "none",
        "chosen_by": [],
    }
    full["stages"].append(pruned)
    grid = sensitivities(parse(full))[0]
    assert list(grid.cells["image_encoder", "structured50"]["float"])
    assert "image_ encoder structured50, not recovered" in shown(full).text


def test_stage_times_of_a_rung_follow_its_choice(full: dict[str, Any]) -> None:
    bars = {(bar.target, bar.name): bar for bar in time_bars(parse(full))}
    chosen = {stage: scheme for stage, scheme, _, _ in bars["onnx", "smallest"].parts}
    assert chosen["text_encoder"] == "static_wi8_ai8.u8"
    assert chosen["image_frontend"] == "float"
    floats = [item["p50_ms"] for item in full["stages"] if item["target"] == "onnx" and item["scheme"] == "float"]
    assert bars["onnx", "float"].total == pytest.approx(sum(floats))


def test_one_judged_combination_is_enough_for_a_plot(full: dict[str, Any], shown: Shown) -> None:
    full["search"]["judged"] = full["search"]["judged"][:1]
    del full["budget"], full["recoveries"]
    assert shown(full).count("circle") == 1
