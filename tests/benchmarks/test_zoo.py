"""The zoo's entries build, answer their own samples, and what is told of them is what a report says."""

from __future__ import annotations

import argparse
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from benchmarks.zoo import __main__ as zoo
from benchmarks.zoo import worker
from benchmarks.zoo.catalogue import ENTRIES
from benchmarks.zoo.fusions import siamese
from benchmarks.zoo.record import Row, Target, found_row, from_report
from edgefuse.bundle.wiring import width
from edgefuse.compiler.candidates.golden import GoldenRow
from edgefuse.compiler.recipe.recipe import load
from edgefuse.compiler.report import schema
from edgefuse.stages.found import find


def test_there_are_enough_and_names_are_unique() -> None:
    assert len(ENTRIES) >= 24
    families = [zoo.ROOT / "benchmarks" / "zoo" / f"{name}.py" for name in ("transformers_models", "systems")]
    assert all(path.is_file() for path in families)
    assert [name for name, count in Counter(entry.factory for entry in ENTRIES.values()).items() if count > 1] == []


@pytest.mark.parametrize(
    "name", [name if name == "clip" else pytest.param(name, marks=pytest.mark.exhaustive) for name in ENTRIES]
)
def test_a_module_answers_its_own_samples(name: str) -> None:
    entry = type(ENTRIES[name])(ENTRIES[name].factory, ENTRIES[name].draws)  # heads as they were drawn: that is quick
    _, spec = entry.build()
    assert spec.name == name
    for index in (0, 1):
        answers = entry.answers(entry.sample(index))
        assert [answer.shape for answer in answers] == [(1, width(output)) for output in spec.outputs]
        assert all(np.isfinite(answer).all() for answer in answers)


def test_a_fitted_head_tells_clusters_apart() -> None:
    entry = ENTRIES["sensor_clocks"]
    found = [int(entry.answers(entry.sample(index))[0].argmax()) for index in range(200, 230)]
    assert np.mean([answer == index % 3 for index, answer in enumerate(found, 200)]) > 0.9


def test_a_model_is_told_with_its_share_and_stages(tmp_path: Path) -> None:
    entry = ENTRIES["siamese"]
    row = worker.find_stages(entry)
    assert row.model == siamese.__name__
    assert row.stages == ("left_encoder", "right_encoder", "fusion")
    assert row.single_modality_share is not None
    assert row.single_modality_share > 0.9
    worker.write_recipes(entry, tmp_path)
    assert load(tmp_path / "recipe.toml").model.factory == "zoo_siamese:build"
    single = found_row("siamese", find(*worker.as_one_stage(entry)))
    assert single.stages == ("model",)
    assert single.parameters == row.parameters


def _report() -> schema.Report:
    rung = schema.RungReport(
        name="fast", objective="latency", stages={"a": schema.StageChoice(scheme="dynamic_wi8_af32")}, accuracy={},
        drop_ci95={}, p50=1.0, speedup=None, speedup_over_float=schema.Gain(ratio=1.75), size_bytes=1, size_ratio=4.0,
    )  # fmt: skip
    golden = [
        GoldenRow(target="onnx", stage="a", candidate=name, max_abs_error=error, tolerance={}, ok=True)
        for name, error in (("a@float", 1e-6), ("a@int8", 0.1))
    ]
    return schema.Report(
        reference=schema.Reference(
            runtime="torch", threads=1, p50_ms=None, size_bytes=1, metric="accuracy", accuracy={}, items=1
        ),
        bundles=(
            schema.BundleReport(
                target="onnx",
                path="x",
                size_bytes=1,
                within_budget=True,
                float_p50=2.0,
                float_size_bytes=4,
                rungs=(rung,),
            ),
        ),
        golden=tuple(golden),
        stages=tuple(
            schema.CandidateReport(target="onnx", stage="a", candidate=name, scheme=scheme)
            for name, scheme in (("a@float", "float"), ("a@int8", "dynamic_wi8_af32"))
        ),
        failed={"tflite": "no file for it."},
    )


def test_what_is_told_of_a_target_is_what_the_report_says() -> None:
    told = from_report(_report(), "onnx", 12.34)
    assert told == Target(
        compiled=True, seconds=12.3, max_abs_error=1e-6, speedup_over_float=1.75, schemes={"a": "dynamic_wi8_af32"}
    )
    assert from_report(_report(), "tflite", 1.0) == Target(seconds=1.0, error="no file for it.")


def test_one_that_fails_leaves_its_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = zoo.parser().parse_args(["--work", str(tmp_path), "--deadline", "60"])

    def fails(*_: object, **__: object) -> None:
        raise subprocess.TimeoutExpired("worker", 60)

    monkeypatch.setattr(subprocess, "run", fails)
    row = zoo.row_of("clip", arguments)
    assert row == Row(model="clip", error="not done after 60 s")
    assert "clip: 0.00 M" in zoo.line(row)
    assert "0 of 0 with a share" in zoo.summary([row])
    assert isinstance(arguments, argparse.Namespace)
