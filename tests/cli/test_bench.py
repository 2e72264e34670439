"""`edgefuse bench` against nothing, another bundle and torch."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

Cli = Callable[..., Any]

MODEL = """
import torch
from torch import nn
from edgefuse.bundle import spec

class Sum(nn.Module):
    spec = spec.ModelSpec(
        name="sum",
        modalities=(
            spec.image("image", height=8, width=8, channels=1, optional=True),
            spec.text("text", tokenizer="t.json", max_length=6, optional=True),
            spec.tensor("motion", shape=(1, 5, 3), length=True, optional=True),
        ),
        outputs=(spec.ClassOutput(labels=("a", "b")),),
    )

    def forward(self, pixels, ids, values, ids_length, values_length, present):
        total = pixels.float().mean() + ids.sum() + values.sum() + ids_length + values_length + present.sum()
        return torch.stack([total, -total], dim=1)

def build():
    return Sum()

"""


def test_bench_measures_every_rung(cli: Cli, tiny_bundle: Path) -> None:
    done = cli("bench", tiny_bundle, "--rounds", "11", "--json")
    assert done.returncode == 0
    report = json.loads(done.stdout)
    assert report["scenario"] == "single-stream"
    assert report["feature_cache"] is False
    assert report["inputs"] == "golden inputs (image + text + motion)"
    assert report["machine"]["threads"] == 1
    assert report["baseline"] is None
    for name in ("float", "small"):
        steady, cold = report["steady"][name], report["cold"][name]
        assert steady["runs"] == 10 * report["rounds"] >= 110
        assert 0 < steady["p50_ms"] <= steady["p90_ms"]
        assert (steady["p99_ms"] is None) == (steady["runs"] < 662)
        assert min(cold["import_ms"], cold["load_ms"], cold["first_inference_ms"]) > 0
        assert cold["peak_rss_bytes"] > 10_000_000
    ratio = report["speedup_over_float"]["small"]
    assert ratio["low"] <= ratio["value"] <= ratio["high"]
    assert list(report["speedup_over_float"]) == ["small"]


def test_bench_shows_a_table_and_says_what_it_did(cli: Cli, tiny_bundle: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "motion.npy", np.ones((1, 4, 3), np.float32))
    done = cli("bench", tiny_bundle, "--rounds", "12", "--rung", "small", "--motion", "motion.npy")
    assert done.returncode == 0
    assert "single-stream, batch 1, 1 thread" in done.stdout
    assert "interleaved; feature cache off; files (motion)" in done.stdout
    assert "time rounds" in done.stderr


@pytest.mark.timing
def test_bench_against_another_bundle(cli: Cli, tiny_bundle: Path) -> None:
    done = cli("bench", tiny_bundle, "--against", tiny_bundle, "--rounds", "30", "--rung", "small", "--json")
    report = json.loads(done.stdout)
    assert set(report["steady"]) == {"small", "tiny/float"}
    assert report["speedup"]["small"]["value"] == pytest.approx(1, abs=0.8)
    assert report["baseline"].endswith("tiny, rung 'float', backend onnx")


def test_bench_against_torch(cli: Cli, tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MODEL)
    # Dynamo is off, since the real compiler takes half a minute; what its failure does is in test_reference.py.
    options = ("--rounds", "12", "--rung", "small", "--json")
    done = cli("bench", tiny_bundle, "--against", "mine:build", *options, TORCHDYNAMO_DISABLE="1")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert set(report["steady"]) == {"small", "torch"}
    assert report["speedup"]["small"]["low"] > 0
    assert report["baseline"].startswith("torch 2.")
    assert ", 1 thread, measured to choose: eager " in report["baseline"]


def test_bench_checks_where_operators_run(cli: Cli, unfused_bundle: Path) -> None:
    done = cli("bench", unfused_bundle, "--rounds", "12", "--rung", "small", "--min-placement", "0.95", "--json")
    assert done.returncode == 1
    assert "stage 'image_encoder' (image_encoder.dynamic_wi8_af32) is too low: got 0.750" in done.stderr
    report = json.loads(done.stdout)
    assert len(report["placement"]) == 5, "the files of the rung that was measured"
    unmeasured = cli("bench", unfused_bundle, "--rounds", "12", "--backend", "null", "--min-placement", "0.5")
    assert unmeasured.returncode == 1
    assert "no placement was measured" in unmeasured.stderr
