"""Compiling for a processor that is not here: its schemes, and a cost in place of latency."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from edgefuse.bundle.manifest import Manifest
from edgefuse.bundle.reader import open_bundle
from edgefuse.bundle.spec import StageSpec
from edgefuse.cli import main
from edgefuse.compiler import CompileResult, compile
from edgefuse.compiler.candidates.schemes import wanted_schemes
from edgefuse.compiler.report.encoding import parse
from edgefuse.compiler.timing import HERE, timer_of
from edgefuse.compiler.timing.proxy import Proxy
from edgefuse.errors import RecipeError
from edgefuse.quantize.onnx.quantizer import OnnxQuantizer
from edgefuse.runtime.processor import processor

if processor().architecture == "aarch64":
    pytest.skip("this machine is an arm64 device: it measures", allow_module_level=True)


def for_device(own_recipe: Path, folder: Path, device: str = "arm64", search: str = "") -> Path:
    """Return a copy of the pair's recipe, for another device."""
    recipe = shutil.copytree(own_recipe.parent, folder) / "recipe.toml"
    text = recipe.read_text(encoding="utf-8")
    assert "[compile]\n" in text
    text = text.replace("[compile]\n", f'[compile]\ndevice = "{device}"\n').replace(
        "[search]\n", f"[search]\n{search}\n"
    )
    recipe.write_text(text, encoding="utf-8")
    return recipe


@pytest.fixture(scope="module")
def arm(own_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> CompileResult:
    folder = tmp_path_factory.mktemp("arm")
    return compile(for_device(own_recipe, folder / "own"), folder / "out", cache=folder / "cache")


@pytest.fixture(scope="module")
def manifest(arm: CompileResult) -> Manifest:
    with open_bundle(arm.bundles[0]) as bundle:
        return bundle.manifest


@pytest.fixture(scope="module")
def report(arm: CompileResult) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(arm.report_json.read_text(encoding="utf-8"))
    return found


def keys(value: object) -> set[str]:
    """Return every key of a JSON value, at any depth."""
    if isinstance(value, dict):
        return set(value).union(*map(keys, value.values()))
    return set().union(*map(keys, value)) if isinstance(value, list) else set()


def test_arm64_gets_signed_schemes_only(report: dict[str, Any], manifest: Manifest) -> None:
    schemes = {line["scheme"] for line in report["stages"]}
    assert "static_wi8_ai8.s8" in schemes
    assert not any(".u8" in scheme for scheme in schemes)
    assert any(".s8" in candidate.scheme for candidate in manifest.candidates)


def test_a_host_keeps_its_schemes_and_a_device_gets_each_once() -> None:
    stage = StageSpec(name="encoder", role="encoder", modality="image", inputs=(), outputs=())
    quantizer = OnnxQuantizer()
    offered = [wanted_schemes(quantizer, stage, "latency", {}, device) for device in ("host", "arm64")]
    assert [scheme.id for scheme in offered[0]] == [scheme.id for scheme in quantizer.schemes(stage)]
    assert [scheme.id for scheme in offered[1]] == [
        *("static_wi8_ai8.s8", "dynamic_wi8_af32", "static_wi8_ai8.s8.percentile", "fp16")
    ]


def test_rungs_carry_a_cost_and_no_figure_of_this_machine(manifest: Manifest) -> None:
    for rung in manifest.rungs:
        assert rung.figures == ()
        assert rung.cost is not None
        assert rung.cost > 0


def test_the_report_speaks_of_cost_only(report: dict[str, Any]) -> None:
    assert report["unit"] == "cost"
    assert not {key for key in keys(report) if key.endswith("_ms") or key.startswith("speedup")}
    assert report["reference"]["cost"] is None
    (bundle,) = report["bundles"]
    fastest = bundle["rungs"][0]
    assert fastest["cost"] < bundle["float_cost"]
    assert fastest["cost_ratio_to_float"]["ratio"] == pytest.approx(bundle["float_cost"] / fastest["cost"])
    assert parse(report).bundles[0].rungs[0].p50 == fastest["cost"]
    assert any("costs for arm64 (aarch64) are counted; 'edgefuse prepare' measures there" in n for n in report["notes"])


def test_the_page_and_the_table_speak_of_cost_only(arm: CompileResult) -> None:
    page = arm.report_html.read_text(encoding="utf-8")
    body = page[page.index("<body>") :].replace("Horowitz", "")
    assert "cost" in body
    assert " ms" not in body
    assert "p50" not in body
    assert "Latency" not in body
    assert arm.summary.splitlines()[0].split()[2] == "cost"
    assert " ms" not in arm.summary


def test_inspect_says_that_nothing_was_measured(arm: CompileResult, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(arm.bundles[0])]) == 0
    out = capsys.readouterr().out
    assert "not measured yet" in out
    assert "p50 ms" not in out


def test_the_same_recipe_costs_the_same(own_recipe: Path, manifest: Manifest, tmp_path: Path) -> None:
    again = compile(for_device(own_recipe, tmp_path / "own"), tmp_path / "out", cache=tmp_path / "cache")
    with open_bundle(again.bundles[0]) as bundle:
        assert bundle.manifest.rungs == manifest.rungs


def test_another_device_is_refused(own_recipe: Path, tmp_path: Path) -> None:
    recipe = for_device(own_recipe, tmp_path / "own", device="riscv")
    with pytest.raises(RecipeError, match=r"\[compile\] device in .*: got 'riscv', expected host or arm64"):
        compile(recipe, tmp_path / "out", cache=tmp_path / "cache")


def test_milliseconds_need_a_device(own_recipe: Path, tmp_path: Path) -> None:
    recipe = for_device(own_recipe, tmp_path / "own", search="max_latency_ms = 3.0")
    with pytest.raises(
        RecipeError, match=r"max_latency_ms cannot be checked: got a limit for arm64, where nothing is measured"
    ):
        compile(recipe, tmp_path / "out", cache=tmp_path / "cache")


def test_the_host_is_measured_and_another_architecture_counted() -> None:
    from edgefuse.compiler.recipe.described import ModelSection
    from edgefuse.compiler.recipe.recipe import CompileSection, DataSection, Recipe

    def recipe(device: str) -> Recipe:
        return Recipe(
            model=ModelSection(factory="a:b"), data=DataSection(factory="a:c"), compile=CompileSection(device=device)
        )

    assert timer_of(recipe("host")) is HERE
    assert timer_of(recipe("arm64")) == Proxy()
