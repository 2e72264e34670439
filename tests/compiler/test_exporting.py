"""`edgefuse.export`: bundles with schemes that are named, and nothing that was not measured."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import edgefuse
from edgefuse.bundle.manifest import Rung
from edgefuse.bundle.reader import open_bundle
from edgefuse.cli import main
from edgefuse.compiler import ExportResult, export
from edgefuse.compiler.recipe.factory import call_factory
from edgefuse.errors import CheckError, DataError, EdgefuseError, QuantizeError, RecipeError
from edgefuse.export.onnx.target import OnnxTarget

from .conftest import Compiled

STATIC, DYNAMIC = "static_wi8_ai8.u8", "dynamic_wi8_af32"
SCHEMES = {"image_encoder": STATIC, "fusion": STATIC, "sensor_encoder": DYNAMIC}


@pytest.fixture(scope="module")
def model(own_recipe: Path) -> Any:
    return call_factory(own_recipe, "pair:build")


@pytest.fixture(scope="module")
def samples(own_recipe: Path) -> list[Mapping[str, Any]]:
    """The inputs of the calibration split, without labels; one sample has a picture alone."""
    found = [sample.inputs for sample in call_factory(own_recipe, "pair:data").calibration]
    return [*found[1:], {"image": found[0]["image"]}]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def exported(
    model: Any, samples: list[Mapping[str, Any]], cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> ExportResult:
    out = tmp_path_factory.mktemp("exported") / "pair.edgefuse"
    return export(model, model.spec, "onnx", schemes=SCHEMES, calibration=samples, out=out, cache=cache)


def test_the_bundle_holds_the_named_schemes_and_no_figure(exported: ExportResult) -> None:
    with open_bundle(exported.bundle, digest=exported.digest) as bundle:
        manifest = bundle.manifest
    assert {candidate.stage: candidate.scheme for candidate in manifest.candidates} == SCHEMES
    (rung,) = manifest.rungs
    files = {candidate.id: candidate for candidate in manifest.candidates}
    assert rung == Rung(
        name="fixed",
        objective="fixed",
        candidates={stage: f"{stage}.{scheme}" for stage, scheme in SCHEMES.items()},
        accuracy={},
        drop_ci95={},
        within_budget=None,
        size_bytes=sum(candidate.size_bytes for candidate in files.values()),
    )
    assert [row.candidate for row in exported.golden] == [rung.candidates[stage.name] for stage in manifest.stages]
    assert all(row.ok and row.snr_db is not None and row.snr_db > 15 for row in exported.golden)


def test_every_verb_takes_the_bundle(
    exported: ExportResult, samples: list[Mapping[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(exported.bundle)]) == 0
    shown = capsys.readouterr().out
    assert "accuracy\n  not measured: an export reads no labels" in shown
    assert "fixed  fixed" in shown
    assert "latency\n  not measured yet" in shown
    assert main(["verify", str(exported.bundle)]) == 0
    np.save(tmp_path / "sensor.npy", samples[0]["sensor"])
    np.save(tmp_path / "image.npy", samples[0]["image"])
    capsys.readouterr()
    assert main(["run", str(exported.bundle), "--sensor", str(tmp_path / "sensor.npy"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["label"] in ("north", "east", "south", "west")
    assert main(["bench", str(exported.bundle), "--rounds", "8", "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)["steady"]) == ["fixed"]


def test_it_answers_like_the_model(exported: ExportResult, model: Any, samples: list[Mapping[str, Any]]) -> None:
    pair = importlib.import_module("pair")
    with edgefuse.load(exported.bundle) as pipeline:
        ours = [pipeline(**sample).label for sample in samples[:-1]]
    with torch.inference_mode():
        inputs = [pair.inputs(sample["image"], sample["sensor"]) for sample in samples[:-1]]
        theirs = [model.spec.outputs[0].labels[int(model(one, torch.ones(1, 2)).argmax())] for one in inputs]
    assert sum(a == b for a, b in zip(ours, theirs, strict=True)) >= 0.9 * len(ours)


def test_float_is_what_is_not_named(model: Any, cache: Path, tmp_path: Path) -> None:
    made = edgefuse.export(model, model.spec, "onnx", out=tmp_path / "folder", cache=cache)
    with open_bundle(tmp_path / "folder") as bundle:
        assert {candidate.scheme for candidate in bundle.manifest.candidates} == {"float"}
        assert (bundle.manifest.rung().objective, bundle.manifest.provenance.data_sha256) == ("float", "")
    assert all(row.max_abs_error is not None and row.max_abs_error < 1e-4 for row in made.golden)


def test_a_dynamic_scheme_needs_no_samples(model: Any, cache: Path, tmp_path: Path) -> None:
    made = export(model, model.spec, "onnx", out=tmp_path / "b", schemes={"fusion": DYNAMIC}, cache=cache)
    assert [row.candidate for row in made.golden][-1] == f"fusion.{DYNAMIC}"


def test_the_files_are_those_of_a_compile(compiled: Compiled, tmp_path: Path) -> None:
    """Of a recipe they are found in the cache that a compile has filled: nothing is made anew."""
    before = _files(compiled.cache)
    schemes = {"image_encoder": STATIC, "sensor_encoder": DYNAMIC}
    export(compiled.recipe, "onnx", out=tmp_path / "b", schemes=schemes, cache=compiled.cache)
    assert _files(compiled.cache) == before
    with open_bundle(tmp_path / "b") as bundle:
        assert {c.stage: c.scheme for c in bundle.manifest.candidates} == {"fusion": "float", **schemes}


def test_the_shell_exports_what_it_is_told(
    compiled: Compiled, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = tmp_path / "pair.edgefuse"
    words = ["export", str(compiled.recipe), "--target", "onnx", "--cache", str(compiled.cache), "-o", str(bundle)]
    schemes = {"image_encoder": STATIC, "sensor_encoder": DYNAMIC}
    asked = [word for stage, scheme in schemes.items() for word in ("--scheme", f"{stage}={scheme}")]
    assert main([*words, *asked, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["bundle"] == str(bundle)
    assert [row["candidate"] for row in told["golden"] if row["ok"]][-1] == "fusion.float"
    with open_bundle(bundle, digest=told["digest"]) as opened:
        assert {c.stage: c.scheme for c in opened.manifest.candidates} == {"fusion": "float", **schemes}
    for wrong, says in (
        (["--scheme", "fusion"], "argument --scheme: 'fusion' is not STAGE=SCHEME, as fusion=dynamic_wi8_af32"),
        (["--scheme", "fusion=a", "--scheme", "fusion=b"], "--scheme names two schemes of the stage 'fusion': "),
    ):
        assert main([*words, *wrong]) == 2
        assert says in capsys.readouterr().err


def _files(cache: Path) -> set[Path]:
    return {path for path in cache.glob("stage-onnx/*/*") if path.suffix == ".onnx"}


@pytest.mark.parametrize(
    ("target", "schemes", "kind", "message"),
    [
        ("moon", {}, RecipeError, "[compile] targets in edgefuse.export(…) names an unknown target: got 'moon'"),
        ("onnx+tflite", {}, RecipeError, "an export is for one target: got 'onnx+tflite', expected onnx or tflite"),
        (
            "onnx",
            {"image": STATIC},
            RecipeError,
            "[schemes] in edgefuse.export(…) names an unknown stage: got 'image', expected image_encoder or sensor",
        ),
        (
            "onnx",
            {"fusion": "dynamic_wi8_af16"},
            RecipeError,
            "[schemes] fusion names a scheme that cannot be applied: got 'dynamic_wi8_af16', expected float or",
        ),
        ("tflite", {"fusion": STATIC}, RecipeError, "fusion names a scheme that cannot be applied: got 'static_wi8"),
        ("onnx", {"fusion": [STATIC]}, RecipeError, "the schemes of an export are not one by stage: got"),
        (
            "onnx",
            {"fusion": STATIC},
            DataError,
            f"the scheme '{STATIC}' of 'fusion' needs calibration samples: got none",
        ),
    ],
)
def test_what_cannot_be_is_one_sentence(
    target: str, schemes: Any, kind: type[EdgefuseError], message: str, model: Any, cache: Path, tmp_path: Path
) -> None:
    with pytest.raises(kind) as caught:
        export(model, model.spec, target, schemes=schemes, out=tmp_path / "b", cache=cache)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (iter([{}]), "the argument 'calibration' of edgefuse.export(…) is of another type: got list_iterator"),
        ([3], "sample 0 of 'calibration' has the wrong type: got int"),
        ([{"smell": 1}], "sample 0 of 'calibration' has an unknown modality: got 'smell'"),
        ([{"image": np.zeros((16, 16), np.uint8)}], "no sample of the split 'calibration' has the modality 'sensor'"),
        ([{"sensor": np.zeros(3)}], "sample 0 of 'calibration' is wrong"),
    ],
)
def test_wrong_samples_are_one_sentence(wrong: Any, message: str, model: Any, cache: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        export(
            model, model.spec, "onnx", schemes={"fusion": STATIC}, calibration=wrong, out=tmp_path / "b", cache=cache
        )
    assert message in str(caught.value)


def test_other_samples_are_other_ranges(
    model: Any, samples: list[Mapping[str, Any]], exported: ExportResult, cache: Path, tmp_path: Path
) -> None:
    """They have no digest that a user might forget to change."""
    louder = [{name: raw * 3 if name == "sensor" else raw for name, raw in one.items()} for one in samples]
    made = export(model, model.spec, "onnx", schemes=SCHEMES, calibration=louder, out=tmp_path / "b", cache=cache)
    with open_bundle(exported.bundle) as one, open_bundle(made.bundle) as other:
        hashes = [{c.stage: c.sha256 for c in bundle.manifest.candidates} for bundle in (one, other)]
        data = [bundle.manifest.provenance.data_sha256 for bundle in (one, other)]
    assert hashes[0]["fusion"] != hashes[1]["fusion"]
    assert hashes[0]["image_encoder"] == hashes[1]["image_encoder"]
    assert data[0] != data[1]


def test_a_file_that_answers_otherwise_is_no_bundle(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lower = OnnxTarget.lower

    def another(self: OnnxTarget, stage: Any) -> Any:
        if stage.spec.name == "fusion":
            with torch.no_grad():
                for parameter in stage.module.parameters():
                    parameter.mul_(1.01)
        return lower(self, stage)

    monkeypatch.setattr(OnnxTarget, "lower", another)
    with pytest.raises(CheckError, match=r"onnx: the file of 'fusion.float' does not agree with torch on the golden"):
        export(model, model.spec, "onnx", out=tmp_path / "b", cache=tmp_path / "cache")
    assert not (tmp_path / "b").exists()


def test_a_scheme_that_finds_nothing_says_so(cache: Path, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Tanh())
    spec = edgefuse_spec()
    with pytest.raises(QuantizeError, match=r"^onnx: 'model' cannot be exported as dynamic_wi8_af32: ") as refused:
        export(model, spec, "onnx", schemes={"model": DYNAMIC}, out=tmp_path / "b", cache=cache)
    assert str(refused.value).count("Fix: ") == 1


def edgefuse_spec() -> Any:
    from edgefuse.bundle import spec

    return spec.ModelSpec(
        name="nothing",
        modalities=(spec.tensors("x", spec.TensorSpec(name="input", shape=(1, 2))),),
        outputs=(spec.ValuesOutput(labels=("a", "b")),),
    )
