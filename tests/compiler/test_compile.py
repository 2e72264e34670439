from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

import edgefuse
from edgefuse.bundle.reader import open_bundle
from edgefuse.compiler import compile
from edgefuse.compiler.report.encoding import parse
from edgefuse.errors import DataError, EdgefuseError, ModelError, RecipeError
from edgefuse.measure import agreement

if TYPE_CHECKING:
    from tests.compiler.conftest import Compiled

_KILLS = 5


def command(recipe: Path, out: Path, cache: Path) -> list[str]:
    return [sys.executable, "-m", "tests.compiler.hurry", "compile", str(recipe), "-o", str(out), "--cache", str(cache)]


def test_a_users_own_model_compiles_with_nothing_but_a_recipe(compiled: Compiled) -> None:
    (bundle,) = compiled.result.bundles
    with open_bundle(bundle) as opened:
        assert opened.manifest.rungs[0].name == "fast"  # which may be the small one, too: that is a matter of time
        assert all(result.ok for result in agreement.check(opened))
    with edgefuse.load(bundle) as pipeline:
        trace = np.random.default_rng(0).standard_normal((1, 9, 8)).astype(np.float32)
        picture = np.full((16, 16), 90, np.uint8)
        both = pipeline(image=picture, sensor=trace)
        alone = pipeline(sensor=trace)
    assert both.label in ("north", "east", "south", "west")
    assert alone.outputs["logits"].shape == (1, 4)


def test_the_report_holds_what_was_measured(compiled: Compiled) -> None:
    report = parse(compiled.report())
    (bundle,) = report.bundles
    assert report.reference.accuracy["image+sensor"] == 1.0  # the labels are the model's own answers
    assert set(report.reference.accuracy) == {"image+sensor", "image", "sensor"}
    assert report.search is not None
    assert report.search.fusion_passes <= 10
    assert all(row.ok for row in report.golden if row.candidate.endswith(".float"))
    for rung in bundle.rungs:
        assert rung.p50 > 0
        low, high = rung.drop_ci95["image+sensor"]
        assert low <= 1.0 - rung.accuracy["image+sensor"] <= high
    smallest = min(bundle.rungs, key=lambda rung: rung.size_bytes)
    assert smallest.size_ratio > 2
    assert "<html" in compiled.result.report_html.read_text(encoding="utf-8")


def test_the_default_rung_holds_the_budget_or_says_so(compiled: Compiled) -> None:
    report = parse(compiled.report())
    fastest = report.bundles[0].rungs[0]
    held = 1.0 - fastest.accuracy["image+sensor"] <= 0.05
    assert report.bundles[0].within_budget is held is compiled.result.within_budget


def entries(cache: Path) -> dict[str, int]:
    """Return when each entry of a cache was made."""
    return {path.relative_to(cache).as_posix(): path.stat().st_mtime_ns for path in cache.glob("*/*") if path.is_dir()}


def test_a_second_compile_gives_the_same_stages_from_the_cache(compiled: Compiled, tmp_path: Path) -> None:
    before = entries(compiled.cache)
    again = compile(compiled.recipe, tmp_path, cache=compiled.cache)
    assert len(before) > 30
    assert entries(compiled.cache) == before  # nothing was made anew
    with open_bundle(compiled.result.bundles[0]) as one, open_bundle(again.bundles[0]) as other:
        assert one.manifest == other.manifest or one.manifest.candidates == other.manifest.candidates
        assert one.manifest.rungs == other.manifest.rungs


def candidate_files(cache: Path) -> dict[str, bytes]:
    """Return all stage files of a cache: which of them a bundle holds depends on what was measured."""
    return {path.relative_to(cache).as_posix(): path.read_bytes() for path in cache.glob("stage-onnx/*/*.onnx")}


def test_the_same_recipe_gives_the_same_bytes_without_the_cache(compiled: Compiled, tmp_path: Path) -> None:
    compile(compiled.recipe, tmp_path / "out", cache=tmp_path / "cache")
    ours, theirs = candidate_files(compiled.cache), candidate_files(tmp_path / "cache")
    shared = ours.keys() & theirs.keys()
    assert len(shared) >= 6
    assert {name: ours[name] for name in shared} == {name: theirs[name] for name in shared}


def test_an_impossible_budget_still_writes_the_best_there_is(compiled: Compiled, tmp_path: Path) -> None:
    recipe = shutil.copytree(compiled.recipe.parent, tmp_path / "own") / "recipe.toml"
    recipe.write_text(
        recipe.read_text().replace("max_drop = 0.05", "max_drop = 0.0") + '[schemes]\nfusion = ["fp16"]\n'
    )
    result = compile(recipe, tmp_path / "out", cache=compiled.cache)
    with open_bundle(result.bundles[0]) as bundle:
        assert result.within_budget == bundle.manifest.rung().within_budget


def kill_after(process: subprocess.Popen[bytes], cache: Path, entries: int, seconds: float) -> bool:
    """Kill a compile some time after it has made so many entries of a cache; False if it ended before that.

    Args:
        process: the compile; ended when this returns.
        cache: the cache it writes to.
        entries: how many entries it has to make first: work, since a fast machine has done all of it in seconds.
        seconds: how long to wait then, so that kills fall between and within entries.
    """
    before = sum(1 for _ in cache.glob("*/*"))
    while process.poll() is None and sum(1 for _ in cache.glob("*/*")) < before + entries:
        time.sleep(0.01)
    time.sleep(seconds)
    process.kill()
    process.communicate()
    return process.returncode == -signal.SIGKILL


@pytest.mark.exhaustive
def test_killed_compiles_leave_no_half_bundle_and_the_next_one_completes(own_recipe: Path, tmp_path: Path) -> None:
    out, cache = tmp_path / "out", tmp_path / "cache"
    rng = random.Random(0)
    killed = 0
    for _ in range(_KILLS):
        with subprocess.Popen(
            command(own_recipe, out, cache), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as one:
            killed += kill_after(one, cache, rng.randrange(1, 6), rng.uniform(0.0, 0.1))
        for bundle in out.glob("*.edgefuse"):
            open_bundle(bundle).close()  # whole, or not there
    assert killed >= 3
    done = [subprocess.Popen(command(own_recipe, out, cache), stderr=subprocess.PIPE) for _ in range(2)]
    for process in done:
        _, errors = process.communicate()
        assert process.returncode in (0, 1), errors.decode()
    assert sorted(path.name for path in out.iterdir()) == ["pair-onnx.edgefuse", "report.html", "report.json"]


@pytest.mark.parametrize(
    ("old", "new", "kind", "message"),
    [
        ('factory = "pair:build"', 'factory = "pair:data"', ModelError, "got Splits"),
        ('factory = "pair:data"', 'factory = "pair:build"', DataError, "expected edgefuse.datasets.Splits"),
        ('"image+sensor"', '"image+smell"', RecipeError, "expected image+sensor or image or sensor"),
        ("[search]", '[schemes]\nfusoin = ["float"]\n[search]', RecipeError, "got 'fusoin'"),
        ("[data]", 'weights = "none.safetensors"\n[data]', RecipeError, "the weights of the recipe are missing"),
        ("[data]", 'assets = ["none.json"]\n[data]', RecipeError, "cannot read the asset 'none.json'"),
    ],
)
def test_what_does_not_fit_is_one_sentence(
    own_recipe: Path, tmp_path: Path, old: str, new: str, kind: type[EdgefuseError], message: str
) -> None:
    recipe = shutil.copytree(own_recipe.parent, tmp_path / "own") / "recipe.toml"
    recipe.write_text(recipe.read_text().replace(old, new))
    with pytest.raises(kind) as caught:
        compile(recipe, tmp_path / "out", cache=tmp_path / "cache")
    assert message in str(caught.value)
    assert not (tmp_path / "out").exists()
