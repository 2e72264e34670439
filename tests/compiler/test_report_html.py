"""The report page. Every figure in the sample is invented TEST DATA and measures nothing."""

from __future__ import annotations

import copy
import itertools
import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from edgefuse.compiler import report_html
from edgefuse.compiler.report_schema import parse
from edgefuse.errors import EdgefuseError

SUBSETS = ("image+audio+text", "image+audio", "image+text", "audio+text", "image", "audio", "text")
REFERENCE = dict(zip(SUBSETS, (0.9810, 0.9535, 0.9620, 0.9475, 0.8120, 0.8640, 0.8405), strict=True))
SCHEMES = ("float", "fp16", "dynamic_wi8_af32", "static_wi8_ai8.u8")
# stage: (float p50 in ms, float bytes, speed-up by scheme, signal-to-noise by scheme)
STAGES: dict[str, tuple[float, int, tuple[float, ...], tuple[float, ...]]] = {
    "image_frontend": (0.021, 4_100, (), ()),
    "image_encoder": (0.912, 2_140_000, (0.99, 0.41, 2.31), (71.2, 31.0, 27.4)),
    "audio_frontend": (0.310, 861_000, (), ()),
    "audio_encoder": (1.180, 3_420_000, (1.01, 1.62, 2.05), (68.8, 33.1, 21.8)),
    "text_encoder": (0.402, 1_690_000, (0.98, 1.71, 1.35), (70.1, 36.4, 18.9)),
    "fusion": (0.288, 1_480_000, (1.00, 1.55, 1.21), (72.0, 38.2, 24.6)),
}
SIZE_FACTOR = {"float": 1.0, "fp16": 0.5, "dynamic_wi8_af32": 0.27, "static_wi8_ai8.u8": 0.26}
ENCODERS = ("image_encoder", "audio_encoder", "text_encoder", "fusion")
CHOICES = {
    "fastest": ("static_wi8_ai8.u8", "static_wi8_ai8.u8", "dynamic_wi8_af32", "dynamic_wi8_af32"),
    "smallest": ("static_wi8_ai8.u8", "static_wi8_ai8.u8", "static_wi8_ai8.u8", "dynamic_wi8_af32"),
}


def p50_ms(stage: str, scheme: str, slowness: float) -> float:
    float_ms, _, speedups, _ = STAGES[stage]
    return slowness * float_ms / (1.0 if scheme == "float" else speedups[SCHEMES.index(scheme) - 1])


def candidates(target: str, slowness: float) -> list[dict[str, Any]]:
    rows = []
    for stage, (float_ms, float_bytes, speedups, ratios) in STAGES.items():
        for index, scheme in enumerate(SCHEMES if speedups else SCHEMES[:1]):
            chosen = [
                name
                for name, schemes in CHOICES.items()
                if dict(zip(ENCODERS, schemes, strict=True)).get(stage) == scheme
            ]
            speed = 1.0 if index == 0 else speedups[index - 1]
            rows.append(
                {
                    "target": target,
                    "stage": stage,
                    "candidate": f"{stage}.{scheme}",
                    "scheme": scheme,
                    "p50_ms": slowness * float_ms / speed,
                    "float_p50_ms": slowness * float_ms,
                    "speedup": {"ratio": speed, "ci95": [speed * 0.985, speed * 1.016]},
                    "size_bytes": int(float_bytes * SIZE_FACTOR[scheme]),
                    "float_size_bytes": float_bytes,
                    "snr_db": 96.4 if index == 0 else ratios[index - 1],
                    "chosen_by": chosen if speedups else list(CHOICES),
                    "excluded": "slower than its float twin on this machine" if speed < 0.9 else None,
                }
            )
    return rows


def judged(target: str, slowness: float) -> list[dict[str, Any]]:
    rows = []
    for schemes in itertools.product(("float", "dynamic_wi8_af32", "static_wi8_ai8.u8"), repeat=4):
        stages = dict(zip(ENCODERS, schemes, strict=True))
        if stages["image_encoder"] == "dynamic_wi8_af32":
            continue
        noise = sum(0.0009 if s.startswith("dynamic") else 0.0031 if s.startswith("static") else 0.0 for s in schemes)
        noise += 0.045 if stages["fusion"].startswith("static") else -0.0012
        rows.append(
            {
                "target": target,
                "stages": stages,
                "p50_ms": sum(p50_ms(stage, scheme, slowness) for stage, scheme in stages.items()),
                "size_bytes": int(sum(STAGES[s][1] * SIZE_FACTOR[scheme] for s, scheme in stages.items())),
                "drop": {"image+audio+text": noise / 2, "audio": noise, "text": noise * 0.8},
                "within_budget": noise <= 0.01,
            }
        )
    return rows


def rung(name: str, slowness: float) -> dict[str, Any]:
    stages = dict(zip(ENCODERS, CHOICES[name], strict=True))
    lost = dict(zip(SUBSETS, (0.0010, 0.0020, -0.0015, 0.0035, 0.0045, 0.0080, 0.0), strict=True))
    time = sum(p50_ms(stage, stages.get(stage, "float"), slowness) for stage in STAGES)
    size = sum(STAGES[stage][1] * SIZE_FACTOR[scheme] for stage, scheme in stages.items())
    return {
        "name": name,
        "objective": "latency" if name == "fastest" else "size",
        "stages": {stage: {"scheme": stages.get(stage, "float"), "pruned": False} for stage in STAGES},
        "accuracy": {subset: REFERENCE[subset] - lost[subset] for subset in SUBSETS},
        "drop_ci95": {subset: [lost[subset] - 0.003, lost[subset] + 0.003] for subset in SUBSETS},
        "p50_ms": time,
        "speedup": {"ratio": 14.6 / time, "ci95": [14.2 / time, 15.1 / time]},
        "speedup_over_float": {
            "ratio": 3.113 * slowness / time,
            "ci95": [3.08 * slowness / time, 3.15 * slowness / time],
        },
        "size_bytes": int(size),
        "size_ratio": sum(STAGES[stage][1] for stage in ENCODERS) / size,
        "peak_rss_bytes": 61_200_000,
    }


def bundle(target: str, slowness: float) -> dict[str, Any]:
    return {
        "target": target,
        "path": f"out/demo/digits-{target}.edgefuse",
        "size_bytes": 4_730_000,
        "within_budget": True,
        "float_p50_ms": 3.113 * slowness,
        "float_size_bytes": sum(STAGES[stage][1] for stage in ENCODERS),
        "rungs": [rung(name, slowness) for name in CHOICES],
    }


def core_report() -> dict[str, Any]:
    """Return TEST DATA with the required keys alone."""
    return {
        "schema": 1,
        "reference": {
            "runtime": "torch 2.13 (eager)",
            "threads": 1,
            "p50_ms": 14.6,
            "size_bytes": 8_730_000,
            "metric": "accuracy",
            "accuracy": REFERENCE,
            "items": 2000,
        },
        "bundles": [bundle("onnx", 1.0), bundle("tflite", 0.86)],
        "search": {"candidates": 44, "fusion_passes": 96, "seconds": 171.4},
        "golden": [
            {
                "target": target,
                "stage": row["stage"],
                "candidate": row["candidate"],
                "max_abs_error": 3.1e-6 if row["scheme"] == "float" else 0.012,
                "snr_db": row["snr_db"],
                "tolerance": {
                    "absolute": 1e-4,
                    "relative": 1e-4,
                    "min_snr_db": None if row["scheme"] == "float" else 15.0,
                },
                "ok": True,
            }
            for target in ("onnx", "tflite")
            for row in candidates(target, 1.0)
        ],
    }


def full_report() -> dict[str, Any]:
    """Return TEST DATA with every key."""
    report = core_report()
    report["search"]["judged"] = judged("onnx", 1.0) + judged("tflite", 0.86)
    report["stages"] = candidates("onnx", 1.0) + candidates("tflite", 0.86)
    report["model"] = {
        "name": "digits",
        "description": "TEST DATA, not measurements. Which digit is shown, said and typed?",
        "stages": list(STAGES),
        "parameters": 2_180_000,
    }
    report["machine"] = {
        "cpu": "Invented Processor 3000 @ 2.50 GHz",
        "architecture": "x86_64",
        "cores": 2,
        "features": ["avx2", "avx512f", "avx512_vnni"],
        "runtimes": {"onnxruntime": "1.31.1", "ai-edge-litert": "2.3.0", "torch": "2.13.0"},
        "threads": 1,
    }
    report["budget"] = {"max_drop": 0.01, "objective": "latency"}
    report["method"] = ["All figures are interleaved in one process.", "Percentiles follow MLPerf."]
    report["notes"] = ["Speech is synthetic: it is made by a speech synthesiser."]
    report["command"] = "edgefuse compile examples/digits/recipe.toml -o out/demo"
    return report


class Outline(HTMLParser):
    """Collects tags and checks that they nest."""

    VOID = frozenset({"meta", "br", "wbr"})

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


@pytest.fixture(scope="module")
def page() -> str:
    return report_html.render(full_report())


@pytest.fixture(scope="module")
def outline(page: str) -> Outline:
    return Outline(page)


def test_the_page_is_one_well_formed_file_that_asks_for_nothing(page: str, outline: Outline) -> None:
    assert outline.open == []
    assert not {"script", "link", "img", "iframe"} & {tag for tag, _ in outline.tags}
    assert not re.search(r"https?:|src=|@import|url\(|//[a-z]", page)
    assert not any(name.startswith("on") for _, attributes in outline.tags for name in attributes)


def test_the_page_can_be_read_by_a_screen_reader(outline: Outline) -> None:
    assert outline.count("table") == outline.count("caption") == 5
    assert all(attributes.get("scope") in {"row", "col"} for tag, attributes in outline.tags if tag == "th")
    pictures = [attributes for tag, attributes in outline.tags if tag == "svg"]
    assert len(pictures) == 2
    labels = {attributes.get("id") for tag, attributes in outline.tags if tag == "title"}
    assert all(picture["role"] == "img" and picture["aria-labelledby"] in labels for picture in pictures)


def test_the_page_tells_every_figure_of_a_rung(outline: Outline) -> None:
    fastest = full_report()["bundles"][0]["rungs"][0]
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
        "44 candidates were built and measured, 96 combinations",
        "36 of 36 files agree with torch",
        "slower than its float twin on this machine",
    ):
        assert figure in outline.text


def test_every_cell_of_the_matrix_carries_its_interval(outline: Outline) -> None:
    tips = [attributes["title"] for tag, attributes in outline.tags if tag == "td" and "title" in attributes]
    assert len(tips) == len(SUBSETS) * 4
    assert tips[0] == "image+audio+text: drop 0.10 points, 95 % interval −0.20 to 0.40"


def test_sections_without_data_are_left_out() -> None:
    outline = Outline(report_html.render(core_report()))
    for heading in ("Where the time goes", "Sensitivity", "How it was measured", "Notes and limits"):
        assert heading not in outline.text
    assert outline.count("svg") == 0
    assert "Operating points" in outline.text


def test_a_report_without_bundles_still_renders() -> None:
    report = core_report() | {"bundles": [], "golden": []}
    del report["search"]
    assert "No bundle was made." in Outline(report_html.render(report)).text


def test_a_bundle_without_rungs_says_so() -> None:
    report = core_report()
    report["bundles"][0] |= {"rungs": [], "within_budget": False}
    text = Outline(report_html.render(report)).text
    assert "No rung was found." in text
    assert "1 of 2 bundles exceed the budget" in text


def test_a_drop_beyond_the_budget_is_framed_and_named() -> None:
    report = full_report()
    report["bundles"][0]["rungs"][0]["accuracy"]["audio"] -= 0.03
    over = [
        attributes
        for tag, attributes in Outline(report_html.render(report)).tags
        if tag == "td" and "over" in str(attributes.get("class")).split()
    ]
    assert [cell["title"] for cell in over] == ["audio: drop 3.80 points, 95 % interval 0.50 to 1.10, over budget"]


def test_a_drop_of_exactly_the_budget_keeps_it() -> None:
    report = full_report()
    report["budget"]["max_drop"] = 0.008
    assert ", over budget" not in report_html.render(report)


def test_a_failed_golden_row_opens_the_table() -> None:
    report = full_report()
    report["golden"][0]["ok"] = False
    outline = Outline(report_html.render(report))
    assert ("details", {"open": None}) in outline.tags
    assert "✗ off" in outline.text


def test_a_metric_that_is_no_share_is_printed_as_it_is() -> None:
    report = full_report()
    report["reference"]["metric"] = "mean_rank"
    text = Outline(report_html.render(report)).text
    assert "98.10 %" not in text
    assert "0.9810" in text


def test_the_same_report_gives_the_same_page(page: str) -> None:
    assert report_html.render(json.loads(json.dumps(full_report()))) == page


def plant(value: Any, text: str) -> Any:
    """Return a copy with a text in place of every free one."""
    if isinstance(value, dict):
        return {key: plant(item, text) if key not in {"metric", "objective"} else item for key, item in value.items()}
    if isinstance(value, list):
        return [plant(item, text) for item in value]
    return text if isinstance(value, str) else value


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", '"><b onclick=x>', "'--><img src=x>", "&lt;i&gt;"])
def test_whatever_a_report_says_is_escaped(text: str) -> None:
    outline = Outline(report_html.render(plant(full_report(), text)))
    assert outline.open == []
    assert text in outline.text
    assert not {"script", "img"} & {tag for tag, _ in outline.tags}
    assert not any("onclick" in attributes for _, attributes in outline.tags)


def test_hostile_keys_are_escaped() -> None:
    renamed = json.loads(json.dumps(full_report()).replace("image+audio", "<img>+audio").replace("fusion", "<script>"))
    renamed["search"]["fusion_passes"] = renamed["search"].pop("<script>_passes")
    assert not {"script", "img"} & {tag for tag, _ in Outline(report_html.render(renamed)).tags}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reference": None}, "this is not a report that edgefuse wrote: got Expected `object`, got `null`"),
        ({"schema": 2}, "the report is of another version: got schema 2, expected schema 1"),
    ],
)
def test_a_wrong_report_is_refused_with_a_sentence(change: dict[str, Any], message: str) -> None:
    with pytest.raises(EdgefuseError, match=re.escape(message)) as caught:
        report_html.render(core_report() | change)
    assert "Fix: " in str(caught.value)


def test_a_missing_key_is_named() -> None:
    report = copy.deepcopy(core_report())
    del report["bundles"][1]["rungs"][0]["speedup"]
    with pytest.raises(EdgefuseError, match="missing required field `speedup`"):
        report_html.render(report)


def test_stage_times_of_a_rung_follow_its_choice() -> None:
    bars = {(bar.target, bar.name): bar for bar in report_html.time_bars(parse(full_report()))}
    chosen = {stage: scheme for stage, scheme, _, _ in bars["onnx", "smallest"].parts}
    assert chosen["text_encoder"] == "static_wi8_ai8.u8"
    assert chosen["image_frontend"] == "float"
    assert bars["onnx", "float"].total_ms == pytest.approx(sum(row[0] for row in STAGES.values()))


def test_one_judged_combination_is_enough_for_a_plot() -> None:
    report = full_report()
    report["search"]["judged"] = report["search"]["judged"][:1]
    del report["budget"]
    assert Outline(report_html.render(report)).count("circle") == 1


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (report_html.signed(-0.001), "0.00"),
        (report_html.signed(-0.356), "−0.36"),
        (report_html.size(821_600), "822 kB"),
        (report_html.size(7_920_000), "7.92 MB"),
        (report_html.size(12), "12 B"),
        (report_html.milliseconds(0.0214), "0.021"),
        (report_html.decibels(float("inf")), "exact"),
        (report_html.tolerance({"absolute": 1e-4, "relative": 1e-4, "min_snr_db": None}), "≤ 1e-04 + 1e-04·max|y|"),
        (report_html.tolerance({"min_snr_db": 15.0}), "≥ 15 dB"),
        (str(report_html.breakable("a_<b>")), "a_<wbr>&lt;b&gt;"),
    ],
)
def test_figures_read_well(shown: str, expected: str) -> None:
    assert shown == expected
