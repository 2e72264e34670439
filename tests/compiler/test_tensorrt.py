"""A compile for TensorRT where there is no GPU: files that ONNX Runtime checks, costs for times, and plain words."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import onnx
import pytest

from edgefuse.bundle.manifest import BuildPlan, Manifest, Profile
from edgefuse.bundle.reader import open_bundle
from edgefuse.cli import main
from edgefuse.compiler import CompileResult, compile
from edgefuse.compiler.recipe.described import ModelSection
from edgefuse.compiler.recipe.recipe import (
    CompileSection,
    DataSection,
    DeviceSection,
    Recipe,
    SearchSection,
)
from edgefuse.compiler.timing import is_emulated, timer_of
from edgefuse.compiler.timing.proxy import Proxy
from edgefuse.errors import RecipeError
from edgefuse.export.tensorrt.target import JETSON
from edgefuse.registry import create
from edgefuse.runtime.backends.backend import Backend

if not is_emulated(create("backends", "tensorrt")):
    pytest.skip("this machine has a GPU: it measures", allow_module_level=True)


@pytest.fixture(scope="module")
def made(own_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> CompileResult:
    folder = tmp_path_factory.mktemp("tensorrt")
    recipe = shutil.copytree(own_recipe.parent, folder / "own") / "recipe.toml"
    recipe.write_text(recipe.read_text(encoding="utf-8").replace('"onnx"', '"tensorrt"'), encoding="utf-8")
    return compile(recipe, folder / "out", cache=folder / "cache")


@pytest.fixture(scope="module")
def manifest(made: CompileResult) -> Manifest:
    with open_bundle(made.bundles[0]) as bundle:
        return bundle.manifest


def recipe_for(*targets: str, uri: str | None = None, max_latency_ms: float | None = None) -> Recipe:
    return Recipe(
        model=ModelSection(factory="a:b"),
        data=DataSection(factory="a:c"),
        compile=CompileSection(targets=targets),
        device=DeviceSection(uri=uri),
        search=SearchSection(max_latency_ms=max_latency_ms),
    )


def test_the_bundle_passes_verify_here(made: CompileResult, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(made.bundles[0]), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows


def test_candidates_carry_their_plan_and_types(made: CompileResult, manifest: Manifest) -> None:
    assert (manifest.target, manifest.backend) == ("tensorrt", "tensorrt")
    plans = {candidate.stage: candidate.plan for candidate in manifest.candidates}
    assert plans["image_encoder"] == BuildPlan()
    assert plans["sensor_encoder"] == BuildPlan(
        profiles=(Profile(port="values", minimum=(1, 1, 8), optimum=(1, 32, 8), maximum=(1, 32, 8)),)
    )
    with open_bundle(made.bundles[0]) as bundle:
        for candidate in manifest.candidates:
            graph = onnx.load_from_string(bundle.read(candidate.file)).graph
            kinds = {node.op_type for node in graph.node}
            assert ("QuantizeLinear" in kinds) == candidate.scheme.startswith("static_wi8_ai8"), candidate.id


def test_int8_and_float16_are_chosen_though_a_cpu_is_slow_at_them(manifest: Manifest) -> None:
    fastest = manifest.rung()
    schemes = {manifest.candidate(name).scheme for name in fastest.candidates.values()}
    assert schemes != {"float"}
    assert fastest.figures == ()  # nothing was measured
    assert fastest.cost is not None


def test_the_report_says_that_nothing_ran_on_hardware(made: CompileResult) -> None:
    report = json.loads(made.report_json.read_text(encoding="utf-8"))
    assert report["unit"] == "cost"
    note = report["notes"][0]
    assert note.startswith("tensorrt: not run on hardware. There is no GPU here")
    assert "judged, in ONNX Runtime on the CPU; costs are counted for the GPU of a Jetson AGX Orin" in note
    assert "not run on hardware" in made.report_html.read_text(encoding="utf-8")
    assert "note: tensorrt: not run on hardware" in made.summary
    assert any("for checking the graph, not for speed" in str(tool) for tool in _tools(made))


def _tools(made: CompileResult) -> list[str]:
    with open_bundle(made.bundles[0]) as bundle:
        return list(bundle.manifest.provenance.tools.values())


def test_costs_are_counted_where_the_files_cannot_be_timed() -> None:
    assert timer_of(recipe_for("tensorrt")) == Proxy(JETSON)
    machine = Proxy(JETSON).describe([create("backends", "tensorrt")], 1)
    assert machine.cpu == "no device: costs counted from the files, for the GPU of a Jetson AGX Orin"


def test_targets_that_are_measured_do_not_mix_with_one_that_is_counted() -> None:
    with pytest.raises(RecipeError) as caught:
        timer_of(recipe_for("onnx", "tensorrt"))
    assert "cannot be compared with each other: got onnx, tensorrt on a host without a GPU, expected tensorrt" in str(
        caught.value
    )
    assert "name a device that has a GPU under [device]" in str(caught.value)


def test_milliseconds_need_a_gpu() -> None:
    with pytest.raises(
        RecipeError, match=r"max_latency_ms cannot be checked: got a limit for a GPU, where nothing is measured"
    ):
        timer_of(recipe_for("tensorrt", max_latency_ms=3.0))


def test_a_named_device_measures() -> None:
    assert timer_of(recipe_for("tensorrt", uri="ssh://user@orin")).unit == "ms"


def test_other_backends_are_what_they_say() -> None:
    backend: Backend = create("backends", "onnx")
    assert not is_emulated(backend)
