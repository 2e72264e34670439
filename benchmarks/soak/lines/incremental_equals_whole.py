"""Incremental equals whole: speech in chunks of 10 to 1,000 ms, any split, to 1e-4 in float, 99 % of labels in int8."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

import edgefuse
from benchmarks.soak.line import Line, Setting
from edgefuse.bundle.manifest import Tolerance
from edgefuse.datasets.digits import load
from edgefuse.measure.agreement import agreement
from edgefuse.runtime.incremental import Incremental
from edgefuse.runtime.pipeline import Pipeline

RECIPES = ("digits/recipe.toml",)
TARGETS = ("onnx", "tflite")

_CLIPS, _RATE_HZ = 600, 16_000
_LEAST_AGREEMENT = 0.99

Sound = npt.NDArray[np.float32]


def run(setting: Setting) -> Line:
    """Hold every rung that streams to calls, over spoken digits, and to itself, over a minute of them."""
    figures: dict[str, Any] = {}
    ok = True
    clips = [sample.inputs["audio"] for sample in load().test if sample.inputs.get("audio") is not None][:_CLIPS]
    for target in TARGETS:
        with edgefuse.load(setting.bundle(RECIPES[0], target)) as default:
            sounds = [np.asarray(default.preprocess(audio=one).values["audio.samples"], np.float32) for one in clips]
            for rung in (one.name for one in default.manifest.rungs):
                with default.at(rung) as pipeline:
                    if "audio" not in pipeline.streaming:
                        continue
                    alike, within = _against_calls(pipeline, sounds)
                    split = _split_error(pipeline, np.concatenate([one[0] for one in sounds[:60]]))
                    figures[f"{target}_{rung}_label_agreement"] = alike
                    figures[f"{target}_{rung}_split_error"] = split
                    if _is_float(pipeline):
                        figures[f"{target}_{rung}_within_1e-4"] = within
                    ok &= alike >= _LEAST_AGREEMENT and split <= Tolerance().absolute
                    ok &= within or not _is_float(pipeline)
    return Line(line="incremental_equals_whole", figures=figures, ok=bool(ok and figures))


def _against_calls(pipeline: Pipeline, sounds: Sequence[Sound]) -> tuple[float, bool]:
    """Return the share of equal labels, and whether all answers are within the tolerance of float files."""
    rng, heard = np.random.default_rng(0), pipeline.incremental("audio")
    labels, answers = 0, []
    for samples in sounds:
        heard.reset()
        _push(heard, samples[0], rng)
        whole, stepped = pipeline(audio=samples).outputs, pipeline(audio=heard.encoded).outputs
        labels += int(whole["logits"].argmax() == stepped["logits"].argmax())
        answers.append((whole, stepped))
    return labels / len(sounds), agreement(answers, Tolerance()).ok


def _split_error(pipeline: Pipeline, minute: Sound) -> float:
    """Return by how much a minute in parts differs from the same minute, pushed at once."""
    whole, split = pipeline.incremental("audio"), pipeline.incremental("audio")
    whole.push(minute)
    _push(split, minute, np.random.default_rng(1))
    if whole.encoded is None or split.encoded is None:
        return float("inf")
    return agreement([(whole.encoded.values, split.encoded.values)], Tolerance()).max_abs_error


def _push(heard: Incremental, samples: Sound, rng: np.random.Generator) -> None:
    start = 0
    while start < len(samples):
        size = int(rng.integers(_RATE_HZ // 100, _RATE_HZ + 1))
        heard.push(samples[start : start + size])
        start += size


def _is_float(pipeline: Pipeline) -> bool:
    """Tell whether the sound's stages are in float, whole and in steps."""
    manifest, rung = pipeline.manifest, pipeline.rung
    steps = [one.rungs[rung.name] for one in manifest.streamed or () if rung.name in one.rungs]
    whole = [rung.candidates[stage.name] for stage in manifest.stages if stage.modality == "audio"]
    used = [*whole, *(id_ for step in steps for id_ in step.values())]
    return all(manifest.candidate(id_).scheme == "float" for id_ in used)
