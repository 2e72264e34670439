"""Interfaces narrowed jointly, from the recipe to the bundle, on a user's own two-input model."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import edgefuse
from edgefuse.bundle.manifest import Manifest
from edgefuse.bundle.reader import open_bundle
from edgefuse.compiler import CompileResult, compile
from edgefuse.compiler.cache.cache import Cache
from edgefuse.compiler.model.subject import Subject, prepare
from edgefuse.compiler.recipe import recipe as recipes
from edgefuse.compiler.recovery.narrowing import narrowed_set
from edgefuse.compiler.search import Judged
from edgefuse.compiler.sets import best
from edgefuse.errors import RecipeError
from edgefuse.measure import agreement
from edgefuse.progress import silent

NARROW = """
[prune]
narrow = 0.5

[recover]
epochs = 8
batch = 32

[schemes]
image_encoder = ["fp16", "dynamic_wi8_af32"]
sensor_encoder = ["fp16", "dynamic_wi8_af32"]
fusion = ["fp16", "dynamic_wi8_af32"]
"""
FEATURES = ("image", "sensor")


@pytest.fixture(scope="module")
def narrow_recipe(own_recipe: Path) -> Path:
    """A recipe in which the smallest combination wins, whatever it loses."""
    path = own_recipe.with_name("narrow.toml")
    text = own_recipe.read_text(encoding="utf-8").replace("max_drop = 0.05", 'max_drop = 0.9\nobjective = "size"')
    path.write_text(text + NARROW, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return Cache(tmp_path_factory.mktemp("narrow-cache"))


@pytest.fixture(scope="module")
def subject(narrow_recipe: Path, cache: Cache) -> Subject:
    return prepare(narrow_recipe, recipes.load(narrow_recipe), cache, silent)


@pytest.fixture(scope="module")
def made(narrow_recipe: Path, cache: Cache, tmp_path_factory: pytest.TempPathFactory) -> CompileResult:
    return compile(narrow_recipe, tmp_path_factory.mktemp("narrow-out"), cache=cache.folder)


@pytest.fixture(scope="module")
def manifest(made: CompileResult) -> Manifest:
    with open_bundle(made.bundles[0]) as bundle:
        return bundle.manifest


@pytest.fixture(scope="module")
def report(made: CompileResult) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(made.report_json.read_text(encoding="utf-8"))
    return found


def test_interfaces_are_narrowed_and_the_stages_recover_together(subject: Subject, cache: Cache) -> None:
    narrow = narrowed_set(subject, cache, silent)
    assert narrow is not None
    assert narrow.reference is subject
    for stage, original in zip(narrow.stages, subject.stages, strict=True):
        assert stage.pruning is not None
        assert stage.pruning.id == "narrow50-joint"
        before = sum(p.numel() for p in original.module.parameters())
        assert sum(p.numel() for p in stage.module.parameters()) < 0.5 * before
    widths = {stage.spec.name: stage.spec.outputs[0].tensor.shape for stage in narrow.stages}
    assert widths == {"image_encoder": (1, 16), "sensor_encoder": (1, 16), "fusion": (1, 4)}
    (told,) = narrow.recoveries
    assert told.stages == ("image_encoder", "sensor_encoder", "fusion")
    assert max(epoch.mean_accuracy for epoch in told.epochs) > told.epochs[0].mean_accuracy + 0.05


def test_a_narrowed_set_is_made_once(subject: Subject, cache: Cache) -> None:
    def forbidden(done: int, total: int, what: str) -> None:
        raise AssertionError(f"made again: {what}")

    one, other = narrowed_set(subject, cache, silent), narrowed_set(subject, cache, forbidden)
    assert one is not None
    assert other is not None
    for ours, theirs in zip(one.stages, other.stages, strict=True):
        assert ours.spec == theirs.spec
        mine, yours = ours.module.state_dict(), theirs.module.state_dict()
        assert mine.keys() == yours.keys()
        assert all(torch.equal(mine[key], yours[key]) for key in mine)
    assert not list((cache.folder / "recovering").glob("*"))


def test_without_recovery_the_stages_are_left_as_narrowing_made_them(subject: Subject, tmp_path: Path) -> None:
    recipe = subject.recipe
    raw = replace(
        subject,
        recipe=recipes.Recipe(
            model=recipe.model,
            data=recipe.data,
            prune=recipes.PruneSection(narrow=0.25),
            recover=recipes.RecoverSection(epochs=0),
        ),
    )
    narrow = narrowed_set(raw, Cache(tmp_path), silent)
    assert narrow is not None
    assert {stage.pruning.id for stage in narrow.stages if stage.pruning} == {"narrow25-raw"}
    assert narrow.recoveries[0].epochs == ()


def test_the_bundle_of_a_narrowed_model_has_narrow_interfaces_and_verifies(
    made: CompileResult, manifest: Manifest
) -> None:
    fusion = next(stage for stage in manifest.stages if stage.name == "fusion")
    assert {port.tensor.name: port.tensor.shape for port in fusion.inputs if port.tensor.name in FEATURES} == {
        "image": (1, 16),
        "sensor": (1, 16),
    }
    assert all("narrow50-joint" in candidate.id for candidate in manifest.candidates)
    with open_bundle(made.bundles[0]) as bundle:
        found = list(agreement.check(bundle))
    assert len(found) == len(manifest.candidates)
    assert all(one.ok for one in found)


@pytest.mark.parametrize("absent", [(), ("image",), ("sensor",)])
def test_a_narrowed_pipeline_answers_whatever_is_absent(made: CompileResult, absent: tuple[str, ...]) -> None:
    inputs = {"image": np.full((16, 16), 90, np.uint8), "sensor": np.ones((1, 9, 8), np.float32)}
    with edgefuse.load(made.bundles[0]) as pipeline:
        answer = pipeline(**{name: value for name, value in inputs.items() if name not in absent})
    assert answer.label in ("north", "east", "south", "west")


def test_gains_are_over_the_float_stages_of_the_unpruned_model(
    subject: Subject, manifest: Manifest, report: dict[str, Any]
) -> None:
    (bundle,) = report["bundles"]
    parameters = sum(p.numel() for stage in subject.stages for p in stage.module.parameters())
    assert bundle["float_size_bytes"] > 4 * parameters
    rung = bundle["rungs"][0]
    assert rung["name"] == "smallest"
    assert rung["size_ratio"] == pytest.approx(bundle["float_size_bytes"] / rung["size_bytes"])
    assert rung["size_ratio"] > 4
    floats = {line["stage"]: line["p50_ms"] for line in report["stages"] if line["candidate"].endswith("encoder.float")}
    assert set(floats) == {"image_encoder", "sensor_encoder"}
    for line in report["stages"]:
        if line["stage"] in floats and line["p50_ms"] is not None:
            assert line["float_p50_ms"] == floats[line["stage"]]


def test_the_report_shows_both_sets(manifest: Manifest, report: dict[str, Any]) -> None:
    search = report["search"]
    narrow = [one for one in search["judged"] if "narrow50-joint" in one["candidates"]["fusion"]]
    assert 0 < len(narrow) < len(search["judged"])
    for one in search["judged"]:
        of_stage = {"narrow50-joint" in candidate for candidate in one["candidates"].values()}
        assert len(of_stage) == 1  # candidates of two sets never stand together
    assert search["fusion_passes"] == len(search["judged"]) <= search["cap"] == 20
    leaves = [line for line in report["stages"] if line["stage"] != "fusion" and line.get("p50_ms") is not None]
    assert search["encoder_passes"] == len(leaves)
    assert search["candidates"] == len([line for line in report["stages"] if line.get("p50_ms") is not None])
    assert [curve["pruning"] for curve in report["recoveries"]] == ["narrow50-joint"]
    assert {row["candidate"] for row in report["golden"]} >= {candidate.id for candidate in manifest.candidates}


def judged(p50_ms: float, excess: float = -0.01, size_bytes: int = 100) -> Judged:
    return Judged(
        candidates={}, p50_ms=p50_ms, size_bytes=size_bytes, drops={}, excess=excess, worst_drop=excess + 0.01
    )


def test_the_better_set_is_within_budget_and_clearly_lower_in_the_objective() -> None:
    assert best([judged(1.0), judged(0.5)], "latency") == 1
    assert best([judged(1.0), judged(0.98)], "latency") == 0
    assert best([judged(1.0), judged(0.5, size_bytes=101)], "size") == 0
    assert best([judged(1.0), judged(0.5, excess=0.001)], "latency") == 0
    assert best([judged(1.0, excess=0.02), judged(2.0, excess=0.01)], "latency") == 1
    assert best([judged(1.0, excess=0.02), judged(2.0)], "latency") == 1


def test_narrow_interfaces_stay_out_where_they_lose_too_much(
    narrow_recipe: Path, cache: Cache, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = narrow_recipe.with_name("strict.toml")
    path.write_text(narrow_recipe.read_text(encoding="utf-8").replace("max_drop = 0.9", "max_drop = 0.0"), "utf-8")
    with caplog.at_level(logging.ERROR):
        result = compile(path, tmp_path, cache=cache.folder)
    with open_bundle(result.bundles[0]) as bundle:
        assert not any("narrow" in candidate.id for candidate in bundle.manifest.candidates)
    found = json.loads(result.report_json.read_text(encoding="utf-8"))
    assert any("narrow50-joint" in one["candidates"]["fusion"] for one in found["search"]["judged"])


@pytest.mark.parametrize("ratio", ["0", "1.0", "1.2", "nan"])
def test_a_ratio_that_is_no_fraction_is_refused(narrow_recipe: Path, ratio: str) -> None:
    path = narrow_recipe.with_name("ratio.toml")
    path.write_text(narrow_recipe.read_text(encoding="utf-8").replace("narrow = 0.5", f"narrow = {ratio}"), "utf-8")
    with pytest.raises(RecipeError, match=r"\[prune\] narrow in .*: got .*, expected the fraction to remove"):
        recipes.load(path)


def test_only_a_fusion_model_has_interfaces(narrow_recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "whole.py").write_text(
        "from torch import nn\nimport pair\n\n\nclass Whole(nn.Module):\n    spec = pair.build().spec\n\n"
        "    def __init__(self):\n        super().__init__()\n        self.inner = pair.build()\n\n"
        "    def forward(self, pixels, values, length, present):\n"
        "        names = ('image.pixels', 'sensor.values', 'sensor.length')\n"
        "        return self.inner(dict(zip(names, (pixels, values, length))), present)\n",
        encoding="utf-8",
    )
    (tmp_path / "pair.py").write_text(narrow_recipe.with_name("pair.py").read_text(encoding="utf-8"), encoding="utf-8")
    path = tmp_path / "whole.toml"
    text, _, _ = narrow_recipe.read_text(encoding="utf-8").replace("pair:build", "whole:Whole").partition("[schemes]")
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError, match="needs a model with interfaces to narrow: got Whole"):
        prepare(path, recipes.load(path), Cache(tmp_path / "cache"), silent)
