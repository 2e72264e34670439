"""A whole report. Every figure in it is invented TEST DATA and measures nothing."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import pytest

from edgefuse.compiler.report import html

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


def costs(share: float) -> dict[str, Any]:
    return {
        "p50_ms": 1.2 * share,
        "size_bytes": int(2_000_000 * share),
        "mac": 40_000_000,
        "bytes_moved": int(9_000_000 * share),
        "activation_bytes": int(900_000 * share),
    }


def modalities(target: str) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = [
        {
            "target": target,
            "modality": modality,
            "stages": [f"{modality}_encoder"],
            "before": costs(1.0),
            "after": costs(0.4),
            "sensitivity": 0.0042,
            "together": {"before": 0.981, "after": 0.980},
            "without": {"before": 0.9475, "after": 0.944},
            "alone": {"before": 0.812, "after": 0.8075},
        }
        for modality in ("image", "audio", "text")
    ]
    return [
        *lines,
        {"target": target, "modality": "", "stages": ["fusion"], "before": costs(0.2), "after": costs(0.1)},
    ]


def float_layers() -> list[dict[str, Any]]:
    name = "audio_encoder.static_wi8_ai8.u8"
    line = {"target": "onnx", "stage": "audio_encoder", "candidate": name}
    return [
        line | {"operator": "MatMul", "count": 4, "mac": 2_000_000, "reason": "product of two activations"},
        line | {"operator": "Softmax", "count": 2, "mac": 0, "reason": "softmax: 8 bits cost accuracy"},
    ]


def front(target: str) -> list[dict[str, Any]]:
    chosen = {stage: f"{stage}.{scheme}" for stage, scheme in zip(ENCODERS, CHOICES["fastest"], strict=True)}
    point = {"target": target, "candidates": chosen, "p50_ms": 1.61, "size_bytes": 2_300_000, "subset": "audio"}
    return [point | {"drop": 0.008, "within_budget": True, "rungs": ["fastest"]}]


def recoveries() -> list[dict[str, Any]]:
    heights = (0.31, 0.82, 0.86, 0.855)
    points = [{"epoch": epoch, "loss": 1.0 / (1 + epoch), "accuracy": value} for epoch, value in enumerate(heights)]
    return [{"stages": ["image_encoder"], "pruning": "structured50", "points": points}]


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
    report["search"] |= {"encoder_passes": 26, "cap": 128, "front": front("onnx")}
    report["modalities"] = modalities("onnx") + modalities("tflite")
    report["float_layers"] = float_layers()
    report["recoveries"] = recoveries()
    report["method"] = ["All figures are interleaved in one process.", "Percentiles follow MLPerf."]
    report["notes"] = ["Speech is synthetic: it is made by a speech synthesiser."]
    report["titles"] = {"onnx": "ONNX", "tflite": "TFLite"}
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


@pytest.fixture
def core() -> dict[str, Any]:
    """A report with the required keys alone."""
    return core_report()


@pytest.fixture
def full() -> dict[str, Any]:
    """A report with every key."""
    return full_report()


@pytest.fixture(scope="session")
def page() -> str:
    return html.render(full_report())


@pytest.fixture(scope="session")
def outline(page: str) -> Outline:
    return Outline(page)


@pytest.fixture(scope="session")
def shown() -> Callable[[dict[str, Any]], Outline]:
    """Renders a report and takes the page apart."""
    return lambda report: Outline(html.render(report))
