"""The report page as a whole: well-formed, self-contained, safe, and complete."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from edgefuse.compiler.report import html
from edgefuse.compiler.report.encoding import parse
from edgefuse.compiler.report.text import summary
from edgefuse.errors import EdgefuseError

Shown = Callable[[dict[str, Any]], Any]


def test_the_page_is_one_well_formed_file_that_asks_for_nothing(page: str, outline: Any) -> None:
    assert outline.open == []
    assert not {"script", "link", "img", "iframe"} & {tag for tag, _ in outline.tags}
    assert not re.search(r"https?:|src=|@import|url\(|//[a-z]", page)
    assert not any(name.startswith("on") for _, attributes in outline.tags for name in attributes)


def test_the_page_can_be_read_by_a_screen_reader(outline: Any) -> None:
    assert outline.count("table") == outline.count("caption") == 11
    scopes = {attributes.get("scope") for tag, attributes in outline.tags if tag == "th"}
    assert scopes <= {"row", "col", "colgroup"}
    pictures = [attributes for tag, attributes in outline.tags if tag == "svg"]
    assert len(pictures) == 3
    labels = {attributes.get("id") for tag, attributes in outline.tags if tag == "title"}
    assert all(picture["role"] == "img" and picture["aria-labelledby"] in labels for picture in pictures)


def test_the_page_tells_every_figure_of_a_rung(full: dict[str, Any], outline: Any) -> None:
    fastest = full["bundles"][0]["rungs"][0]
    for figure in (
        f"{fastest['p50_ms']:.2f}",
        f"{fastest['speedup']['ratio']:.2f}×",
        f"[{fastest['speedup']['ci95'][0]:.2f}, {fastest['speedup']['ci95'][1]:.2f}]",
        f"{fastest['speedup_over_float']['ratio']:.2f}×",
        f"{fastest['size_ratio']:.2f}×",
        "98.00 %",
        "0.80 [0.50, 1.10] audio",
        "61.20 MB",
        "Both bundles keep the budget",
        "edgefuse compile examples/digits/recipe.toml",
        "Speech is synthetic",
        "36 of 36 files agree with torch",
        "slower than its float twin on this machine",
    ):
        assert figure in outline.text


def test_sections_without_data_are_left_out(core: dict[str, Any], shown: Shown) -> None:
    outline = shown(core)
    for heading in (
        "Where the time goes",
        "Sensitivity",
        "Method",
        "Notes and limits",
        "Cost and worth of each modality",
        "Layers that stayed float",
        "Pruning and recovery",
        "Limits that were missed",
        "The front",
    ):
        assert heading not in outline.text
    assert outline.count("svg") == 0
    assert "Operating points" in outline.text


def test_a_report_without_bundles_still_renders(core: dict[str, Any], shown: Shown) -> None:
    core |= {"bundles": [], "golden": []}
    del core["search"]
    assert "No bundle was made." in shown(core).text


def test_a_bundle_without_rungs_says_so(core: dict[str, Any], shown: Shown) -> None:
    core["bundles"][0] |= {"rungs": [], "within_budget": False}
    text = shown(core).text
    assert "No rung was found." in text
    assert "1 of 2 bundles exceed the budget" in text


def test_a_failed_golden_row_opens_the_table(full: dict[str, Any], shown: Shown) -> None:
    full["golden"][0]["ok"] = False
    outline = shown(full)
    assert ("details", {"open": None}) in outline.tags
    assert "✗ off" in outline.text


def test_a_metric_that_is_no_share_is_printed_as_it_is(full: dict[str, Any], shown: Shown) -> None:
    full["reference"]["metric"] = "mean_rank"
    text = shown(full).text
    assert "98.10 %" not in text
    assert "0.9810" in text


def test_the_same_report_gives_the_same_page(full: dict[str, Any], page: str) -> None:
    assert html.render(json.loads(json.dumps(full))) == page


def plant(value: Any, text: str) -> Any:
    """Return a copy with a text in place of every free one."""
    if isinstance(value, dict):
        return {key: plant(item, text) if key not in {"metric", "objective"} else item for key, item in value.items()}
    if isinstance(value, list):
        return [plant(item, text) for item in value]
    return text if isinstance(value, str) else value


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", '"><b onclick=x>', "'--><img src=x>", "&lt;i&gt;"])
def test_whatever_a_report_says_is_escaped(text: str, full: dict[str, Any], shown: Shown) -> None:
    outline = shown(plant(full, text))
    assert outline.open == []
    assert text in outline.text
    assert not {"script", "img"} & {tag for tag, _ in outline.tags}
    assert not any("onclick" in attributes for _, attributes in outline.tags)


def test_hostile_keys_are_escaped(full: dict[str, Any], shown: Shown) -> None:
    renamed = json.loads(json.dumps(full).replace("image+audio", "<img>+audio").replace("fusion", "<script>"))
    renamed["search"]["fusion_passes"] = renamed["search"].pop("<script>_passes")
    assert not {"script", "img"} & {tag for tag, _ in shown(renamed).tags}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reference": None}, "this is not a report that edgefuse wrote: got Expected `object`, got `null`"),
        ({"schema": 2}, "the report is of another version: got schema 2, expected schema 1"),
    ],
)
def test_a_wrong_report_is_refused_with_a_sentence(change: dict[str, Any], message: str, core: dict[str, Any]) -> None:
    with pytest.raises(EdgefuseError, match=re.escape(message)) as caught:
        html.render(core | change)
    assert "Fix: " in str(caught.value)


def test_a_missing_key_is_named(core: dict[str, Any]) -> None:
    report = copy.deepcopy(core)
    del report["bundles"][1]["rungs"][0]["speedup"]
    with pytest.raises(EdgefuseError, match="missing required field `speedup`"):
        html.render(report)


def test_what_a_busy_machine_falsified_is_marked(full: dict[str, Any], shown: Shown) -> None:
    full["timings"] = [{"what": "rungs", "busy": []}, {"what": "onnx fusion", "busy": ["38 % of the time waited"]}]
    full["bundles"][0]["rungs"][0]["speedup_over_float"]["marked"] = True
    outline = shown(full)
    assert "The machine was busy" in outline.text
    assert "onnx fusion: 38 % of the time waited" in outline.text
    assert "rungs:" not in outline.text
    assert outline.text.count("] busy") == 2, "on its card and in the table"


def test_a_quiet_machine_leaves_no_mark(full: dict[str, Any], shown: Shown) -> None:
    full["timings"] = [{"what": "rungs", "busy": [], "waited": 0.01}]
    text = shown(full).text
    assert "The machine was busy" not in text
    assert "] busy" not in text


def test_the_table_for_the_terminal_marks_what_a_busy_machine_falsified(full: dict[str, Any]) -> None:
    full["timings"] = [{"what": "rungs", "busy": ["38 % of the time waited", "9 other tasks"]}]
    rung = full["bundles"][0]["rungs"][0]
    rung["speedup_over_float"]["marked"] = True
    lines = summary(parse(full)).splitlines()
    ratios = f"{rung['speedup']['ratio']:.2f} {rung['speedup_over_float']['ratio']:.2f}*".split()
    assert any(set(ratios) <= set(line.split()) for line in lines)
    assert "BUSY, not to be trusted (*): rungs: 38 % of the time waited; 9 other tasks" in lines
