"""One bundle whose stages run in two runtimes: ONNX Runtime and LiteRT."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

import edgefuse
from edgefuse.bundle.manifest import Candidate, Manifest
from edgefuse.bundle.reader import open_bundle
from edgefuse.bundle.writer import write_bundle
from edgefuse.cli import main
from edgefuse.errors import BackendError, BundleError, MissingExtraError
from edgefuse.measure import placement, trial
from edgefuse.measure.rungs import describe
from edgefuse.runtime.backends.backend import SessionOptions
from edgefuse.runtime.backends.choice import Backends
from edgefuse.runtime.pipeline import Pipeline
from tests import tiny_tflite

Raw = dict[str, Any]
SUBSETS = [("image", "text", "motion"), ("image", "motion"), ("text",)]


@pytest.fixture
def without_litert(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which LiteRT is not installed."""
    monkeypatch.delitem(sys.modules, "edgefuse.runtime.backends.tflite.backend", raising=False)
    for module in ("ai_edge_litert.interpreter", "tflite_runtime.interpreter"):
        monkeypatch.setitem(sys.modules, module, None)


@pytest.mark.parametrize("present", SUBSETS)
def test_it_predicts_what_the_bundles_of_one_runtime_predict(
    joined_bundle: Path, tiny_bundle: Path, tflite_bundle: Path, tiny_raw: Raw, present: tuple[str, ...]
) -> None:
    given = {name: tiny_raw[name] for name in present}

    def logits(pipeline: Pipeline) -> npt.NDArray[np.float32]:
        with pipeline:
            return pipeline(**given).outputs["logits"].astype(np.float32)

    joined = logits(edgefuse.load(joined_bundle))
    np.testing.assert_allclose(joined, logits(edgefuse.load(tiny_bundle)), atol=1e-5)
    np.testing.assert_allclose(joined, logits(edgefuse.load(tflite_bundle)), atol=1e-5)
    small, alone = edgefuse.load(joined_bundle, rung="small"), edgefuse.load(tiny_bundle, rung="small")
    np.testing.assert_allclose(logits(small), logits(alone), atol=1e-5)


def test_another_rung_of_the_open_bundle_may_need_one_runtime_less(joined_bundle: Path, tiny_raw: Raw) -> None:
    with edgefuse.load(joined_bundle) as pipeline:
        first = pipeline(**tiny_raw).outputs["logits"].astype(np.float32)
        alone = pipeline.at("float")(**tiny_raw).outputs["logits"].astype(np.float32)
    np.testing.assert_allclose(first, alone, atol=1e-5)


def test_the_manifest_names_both(joined_bundle: Path) -> None:
    with open_bundle(joined_bundle) as bundle:
        bundle.verify()
        manifest = bundle.manifest
        assert (manifest.target, manifest.backends, manifest.backend) == (
            "onnx+tflite",
            ("onnx", "tflite"),
            "onnx+tflite",
        )
        assert set(describe(bundle, threads=1, backend=None).runtimes) >= {"onnxruntime", "ai-edge-litert"}
        assert set(describe(bundle, threads=1, backend=None, names=["float"]).runtimes) == {"onnxruntime"}


def test_a_missing_runtime_concerns_only_the_rungs_that_need_it(
    joined_bundle: Path, tiny_raw: Raw, without_litert: None
) -> None:
    with edgefuse.load(joined_bundle, rung="float") as pipeline:
        assert pipeline(**tiny_raw).finite
        with pytest.raises(MissingExtraError, match=r"pip install 'edgefuse\[tflite\]'"):
            pipeline.at("joined")
    for rung in (None, "small"):
        with pytest.raises(MissingExtraError, match=r"pip install 'edgefuse\[tflite\]'"):
            edgefuse.load(joined_bundle, rung=rung)


def test_nothing_can_be_run_but_no_other_runtime_can_be_forced_on_it(joined_bundle: Path, tiny_raw: Raw) -> None:
    with edgefuse.load(joined_bundle, backend="null") as pipeline:
        assert not pipeline(**tiny_raw).outputs["logits"].any()
    with edgefuse.load(joined_bundle, backend="onnx+tflite") as pipeline:
        assert pipeline(**tiny_raw).outputs["logits"].any()
    for backend in ("onnx", "tflite"):
        with pytest.raises(BackendError) as caught:
            edgefuse.load(joined_bundle, backend=backend)
        assert str(caught.value) == (
            f"this bundle is for the backend 'onnx+tflite': got '{backend}', expected onnx+tflite or null."
        )


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run the command line in this process; return what it wrote, and expect it to be content."""

    def run(*arguments: str | Path, code: int = 0) -> str:
        assert main(list(map(str, arguments))) == code
        written = capsys.readouterr()
        return written.out if code == 0 else written.err

    return run


def test_the_command_line_names_both(joined_bundle: Path, command: Callable[..., str]) -> None:
    shown = command("inspect", joined_bundle)
    assert "target onnx+tflite, backend onnx+tflite, schema 2.3" in shown
    assert "float in tflite (" in shown
    assert "dynamic_wi8_af32 in onnx (" in shown
    found = json.loads(command("inspect", joined_bundle, "--placement", "--json"))["placement"]
    assert {one["stage"] for one in found if one["share"] is None} == set()
    checked = command("verify", joined_bundle, "--allow-saturation")
    assert "golden vectors on the backend 'onnx+tflite'" in checked
    assert "8 of 8 candidates are within their tolerance" in checked
    assert json.loads(command("run", joined_bundle, "--text", "stop", "--json"))["backend"] == "onnx+tflite"
    alone = command("run", joined_bundle, "--text", "stop", "--rung", "float", "--json")
    assert json.loads(alone)["backend"] == "onnx"
    nothing = command("run", joined_bundle, "--text", "stop", "--backend", "null", "--json")
    assert json.loads(nothing)["backend"] == "null"


def test_prepare_and_bench_measure_both(joined_bundle: Path, command: Callable[..., str]) -> None:
    prepared = command("prepare", joined_bundle)
    benched = command("bench", joined_bundle, "--rounds", "11", "--rung", "joined")
    for text in (prepared, benched):
        assert "onnxruntime " in text
        assert "ai-edge-litert " in text
    assert command("bench", joined_bundle, "--rounds", "11", "--rung", "joined", "--backend", "null")


@pytest.mark.parametrize("verb", ["run", "bench", "prepare"])
def test_one_of_the_two_is_refused(verb: str, joined_bundle: Path, command: Callable[..., str]) -> None:
    given = ("--text", "stop") if verb == "run" else ()
    said = command(verb, joined_bundle, "--backend", "onnx", *given, code=2)
    assert "this bundle is for the backend 'onnx+tflite': got 'onnx', expected onnx+tflite or null" in said


@pytest.mark.usefixtures("without_litert")
def test_verify_names_the_extra_that_is_missing(joined_bundle: Path, command: Callable[..., str]) -> None:
    assert "edgefuse[tflite]" in command("verify", joined_bundle, code=2)


@pytest.fixture(params=["fusion.float.bin", "fusion.float", "fusion.float.tflite"])
def misnamed(
    request: pytest.FixtureRequest, tmp_path: Path, tiny_manifest: Manifest, tiny_contents: dict[str, bytes]
) -> Path:
    """A bundle with a file for ONNX Runtime whose name says another format, or none."""
    file = f"stages/{request.param}"
    if file.endswith(".tflite"):  # a real one, or it would be refused for what is in it
        manifest: Manifest = request.getfixturevalue("joined_manifest")
        contents, changed = dict(tiny_tflite.contents(manifest)), {"backend": "onnx", "target": "onnx"}
    else:
        manifest, contents, changed = tiny_manifest, dict(tiny_contents), {"file": file}
        contents[file] = contents.pop("stages/fusion.float.onnx")
    candidates = tuple(
        msgspec.structs.replace(one, **changed) if one.file in (file, "stages/fusion.float.onnx") else one
        for one in manifest.candidates
    )
    path = tmp_path / "misnamed"
    write_bundle(path, msgspec.structs.replace(manifest, candidates=candidates), contents)
    return path


SENTENCE = "the backend 'onnx' does not open files of this format"


def test_a_file_that_was_checked_as_another_format_reaches_no_runtime(
    misnamed: Path, command: Callable[..., str]
) -> None:
    with open_bundle(misnamed) as bundle:
        wrong = next(one for one in bundle.manifest.candidates if one.backend == "onnx" and ".onnx" not in one.file)
        for opening in (
            lambda: edgefuse.load(bundle),
            lambda: placement.measure(bundle),
            lambda: trial.check(bundle, SessionOptions()),
            lambda: Backends(bundle.manifest).of(wrong),
        ):
            with pytest.raises(BackendError) as caught:
                opening()
            assert str(caught.value) == (
                f"{SENTENCE}: got '{wrong.file}', expected a name that ends in .onnx. Fix: compile the bundle again."
            )
    for verb in ("verify", "prepare"):
        assert SENTENCE in command(verb, misnamed, code=2)


def test_the_case_of_the_end_of_a_name_does_not_count(tmp_path: Path, joined_manifest: Manifest, tiny_raw: Raw) -> None:
    contents = dict(tiny_tflite.contents(joined_manifest))
    contents["stages/fusion.float.TFLite"] = contents.pop("stages/fusion.float.tflite")
    renamed = tuple(
        msgspec.structs.replace(one, file="stages/fusion.float.TFLite")
        if one.file == "stages/fusion.float.tflite"
        else one
        for one in joined_manifest.candidates
    )
    path = tmp_path / "loud"
    write_bundle(path, msgspec.structs.replace(joined_manifest, candidates=renamed), contents)
    with edgefuse.load(path) as pipeline:
        assert pipeline(**tiny_raw).finite
    damaged = contents | {"stages/fusion.float.TFLite": b"no such file"}
    with pytest.raises(BundleError, match=r"the TFLite file 'stages/fusion\.float\.TFLite'"):
        write_bundle(path, _resized(renamed, joined_manifest, b"no such file"), damaged)


def _resized(candidates: tuple[Candidate, ...], manifest: Manifest, data: bytes) -> Manifest:
    """Return a manifest that says these bytes are those of the renamed file."""
    said = {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}
    return msgspec.structs.replace(
        manifest,
        candidates=tuple(
            msgspec.structs.replace(one, **said) if one.file.endswith(".TFLite") else one for one in candidates
        ),
    )
