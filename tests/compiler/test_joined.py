"""A joined target: one bundle whose stages may run in different runtimes, where that pays."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import edgefuse
from edgefuse.bundle.reader import open_bundle
from edgefuse.cli import main
from edgefuse.compiler import compile
from edgefuse.compiler.rungs import mixing
from edgefuse.compiler.rungs.final import Ratio, RungTiming
from edgefuse.errors import RecipeError
from edgefuse.measure.rungs import golden_inputs

from .conftest import Compiled

JOINED = "onnx+tflite"


def test_there_is_a_bundle_for_each_that_was_asked_for(joined: Compiled) -> None:
    assert [path.name for path in joined.result.bundles] == ["pair-tflite.edgefuse", "pair-onnx+tflite.edgefuse"]
    with open_bundle(joined.result.bundles[1]) as bundle:
        manifest = bundle.manifest
    assert manifest.target == JOINED
    assert {candidate.target for candidate in manifest.candidates} <= {"onnx", "tflite"}
    for candidate in manifest.candidates:
        assert candidate.backend == candidate.target
        assert candidate.id.endswith(f"@{candidate.target}")
        assert candidate.file.endswith(f".{candidate.target}")
    assert not [rung.name for rung in manifest.rungs if mixing.is_alternative(rung.name)]


def test_it_answers_like_the_bundle_that_its_default_rung_is_of(joined: Compiled, compiled: Compiled) -> None:
    """Unless it mixes: then it answers as its own golden vectors say."""
    with open_bundle(joined.result.bundles[1]) as bundle:
        rung = bundle.manifest.rung()
        targets = {bundle.manifest.candidate(name).target for name in rung.candidates.values()}
        inputs = golden_inputs(bundle)
    with edgefuse.load(joined.result.bundles[1], cache=False) as pipeline:
        ours = pipeline.infer(inputs)
    assert all(np.isfinite(value).all() for value in ours.values())
    assert main(["verify", str(joined.result.bundles[1])]) == 0
    if len(targets) == 1:
        single = (compiled if targets == {"onnx"} else joined).result.bundles[0]
        wanted = {stage: name.partition("@")[0] for stage, name in rung.candidates.items()}
        with open_bundle(single) as bundle:
            same = next((r.name for r in bundle.manifest.rungs if r.candidates == wanted), None)
        if same is not None:
            with edgefuse.load(single, rung=same, cache=False) as pipeline:
                theirs = pipeline.infer(inputs)
            assert {name: value.tobytes() for name, value in ours.items()} == {
                name: value.tobytes() for name, value in theirs.items()
            }


def test_the_report_says_what_it_costs(joined: Compiled) -> None:
    report = joined.report()
    assert report["titles"] == {"tflite": "TFLite", JOINED: "ONNX + TFLite"}
    (price,) = (note for note in report["notes"] if note.startswith(f"{JOINED}: its runtimes"))
    assert "onnxruntime" in price
    assert "ai-edge-litert" in price
    assert "MB of peak memory" in price
    assert "ms to the first answer" in price
    rows = [(row["target"], row["candidate"]) for row in report["golden"]]
    assert len(rows) == len(set(rows))
    schemes = {line["scheme"] for line in report["stages"] if line["target"] == JOINED}
    assert {"float@onnx", "float@tflite"} <= schemes
    page = joined.result.report_html.read_text(encoding="utf-8")
    assert "ONNX + TFLite" in page


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("tflite+onnx", "joins targets in another way than one: got 'tflite[+]onnx', expected 'onnx[+]tflite'"),
        ("onnx+onnx", "got 'onnx[+]onnx', expected 'onnx'"),
        ("onnx+abacus", "names an unknown target: got 'abacus'"),
        ("onnx+", "names an unknown target: got ''"),
    ],
)
def test_a_joined_target_is_spelled_in_one_way(target: str, message: str, compiled: Compiled, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=message):
        compile(compiled.recipe, tmp_path, targets=[target], cache=compiled.cache)


def timing(p50: float, *, spread: float = 0.001) -> RungTiming:
    """Return the timing of a rung, over a float rung that takes 1 ms."""
    ratio = 1.0 / p50
    over = Ratio(ratio=ratio, ci95=(ratio * (1 - spread), ratio * (1 + spread)))
    return RungTiming(cost=p50, speedup=None, speedup_over_float=over)


def settled(default: dict[str, str], times: dict[str, float], *, spread: float = 0.001) -> dict[str, Any]:
    """Return the rungs that are left of `fast` and the members' rungs with these times."""
    targets = {"a@onnx": "onnx", "a@tflite": "tflite", "b@onnx": "onnx", "b@tflite": "tflite"}
    built = {name: SimpleNamespace(target=target) for name, target in targets.items()}
    result: Any = SimpleNamespace(mixes=lambda one: len({built[c].target for c in one.values()}) > 1)
    chosen: dict[str, Any] = {
        "fast": default,
        "fast@onnx": {"a": "a@onnx", "b": "b@onnx"},
        "fast@tflite": {"a": "a@tflite", "b": "b@tflite"},
    }
    accuracies: dict[str, Any] = dict.fromkeys(chosen)
    here = {name: timing(value, spread=spread) for name, value in times.items()}
    mixing.settle(result, chosen, accuracies, here)
    return chosen


MIXED = {"a": "a@onnx", "b": "b@tflite"}


def test_it_mixes_where_that_is_clearly_faster() -> None:
    times = {"fast": 0.90, "fast@onnx": 1.2, "fast@tflite": 1.0}
    assert settled(MIXED, times) == {"fast": MIXED}


@pytest.mark.parametrize(("fast", "spread"), [(0.98, 0.001), (0.95, 0.1), (1.1, 0.001)])
def test_it_runs_in_one_runtime_where_mixing_gains_little_or_is_not_shown_to(fast: float, spread: float) -> None:
    times = {"fast": fast, "fast@onnx": 1.2, "fast@tflite": 1.0}
    assert settled(MIXED, times, spread=spread) == {"fast": {"a": "a@tflite", "b": "b@tflite"}}


def test_it_is_never_slower_than_the_better_of_its_members() -> None:
    pure = {"a": "a@onnx", "b": "b@onnx"}
    times = {"fast": 1.2, "fast@onnx": 1.2, "fast@tflite": 1.0}
    assert settled(pure, times) == {"fast": {"a": "a@tflite", "b": "b@tflite"}}
