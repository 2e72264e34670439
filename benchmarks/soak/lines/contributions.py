"""Leaving one modality out by features equals a prediction without it, and costs at most two fusions.

On `digits` for ONNX and TFLite, over random pictures, sounds and texts: the answer with all modalities, and what
`explain` says that each of them added, against a prediction without it (the largest difference in log-odds; as many
predictions as there were); stages that ran more often than in a prediction, counted, for each modality that was left
out.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

import edgefuse
from benchmarks.soak.line import Line, Setting
from edgefuse.bundle.spec import StageSpec
from edgefuse.runtime.graph import Graph

RECIPES = ("digits/recipe.toml",)
ITEMS = 100
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
MAX_DIFFERENCE = 1e-9  # of log-odds of equal logits, computed in two ways


def run(setting: Setting) -> Line:
    """Explain items, and predict each without each of its modalities."""
    figures: dict[str, Any] = {}
    for target in ("onnx", "tflite"):
        with edgefuse.load(setting.bundle(*RECIPES, target), cache=False) as pipeline:
            figures[target] = _held(pipeline, setting)
    ok = all(
        one["largest_difference"] <= MAX_DIFFERENCE
        and one["encoder_runs"] == 0
        and one["fusion_runs_per_modality"] <= 2
        for one in figures.values()
    )
    return Line(line="contributions", figures=figures, ok=ok)


def _held(pipeline: edgefuse.Pipeline, setting: Setting) -> dict[str, float]:
    """Return the largest difference, and the stages that ran for a modality more than in a prediction."""
    worst, left_out, items, more = 0.0, 0, 0, Counter[str]()
    fusion = {stage.name for stage in pipeline.manifest.stages if not stage.modality}
    rng = np.random.default_rng(0)
    for _ in setting.repeated(ITEMS):
        raw = _item(pipeline, rng)
        with _counted() as once:
            whole = pipeline(**raw)
        with _counted() as all_runs:
            found = pipeline.explain(**raw).contributions
        if found is None:
            raise AssertionError("what explains gives contributions")
        items += 1
        more += all_runs - once
        for name, added in found.each.items():
            rest = pipeline(**{**raw, name: None})
            expected = _log_odds(whole, whole.label) - _log_odds(rest, whole.label)
            worst = max(worst, abs(added.log_odds["logits"] - expected))
            left_out += 1
    return {
        "items": items,
        "left_out": left_out,
        "largest_difference": worst,
        "fusion_runs_per_modality": sum(more[name] for name in fusion) / (left_out * len(fusion)),
        "encoder_runs": sum(count for name, count in more.items() if name not in fusion),
    }


def _log_odds(prediction: edgefuse.Prediction, label: str) -> float:
    """Return the log-odds of a label from the logits: of probabilities near 1, the difference to 1 is lost."""
    logits = np.asarray(prediction.outputs["logits"], np.float64)[0]
    others = np.delete(logits, list(prediction.scores).index(label))
    return (
        float(logits[list(prediction.scores).index(label)])
        - math.log(np.exp(others - others.max()).sum())
        - float(others.max())
    )


def _item(pipeline: edgefuse.Pipeline, rng: np.random.Generator) -> dict[str, object]:
    """Return raw inputs of every kind that the model takes."""
    raw: dict[str, object] = {}
    for modality in pipeline.manifest.model.modalities:
        _, *shape = modality.tensors[0].max_shape
        if modality.tensors[0].dtype == "uint8":
            raw[modality.name] = rng.integers(0, 256, shape[:2], dtype=np.uint8)
        elif modality.tensors[0].dtype == "float32":
            raw[modality.name] = rng.normal(0, 0.1, shape).astype(np.float32)
        else:
            raw[modality.name] = str(rng.choice(WORDS))
    return raw


@contextmanager
def _counted() -> Iterator[Counter[str]]:
    """Count how often each stage runs within the block."""
    counts, real = Counter[str](), Graph._run_stage

    def counting(graph: Graph, stage: StageSpec, feeds: Any, *sessions: Any) -> Any:
        counts[stage.name] += 1
        return real(graph, stage, feeds, *sessions)

    Graph._run_stage = counting  # type: ignore[method-assign] # for the block
    try:
        yield counts
    finally:
        Graph._run_stage = real  # type: ignore[method-assign]
