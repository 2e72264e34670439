"""The C++ reader of docs/readers/cpp against edgefuse itself, on the same bundles."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import edgefuse
from edgefuse.bundle.manifest import Manifest
from edgefuse.bundle.writer import write_bundle
from edgefuse.stages.found import find
from tests import video_model
from tests.float_bundle import float_bundle

Array = npt.NDArray[Any]
Predict = Callable[..., "subprocess.CompletedProcess[str]"]
HERE = Path(__file__).parent
OLD = HERE.parent / "bundle" / "data" / "tiny-1.2.edgefuse"
EVERYTHING = ("image", "text", "motion")


@pytest.fixture
def predict(cpp_reader: Path, written: Callable[..., list[str]]) -> Predict:
    """Run the reader; arrays go through files."""

    def run(bundle: Path, *options: str, **arrays: Array) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [cpp_reader, bundle, *options, *written(**arrays)], capture_output=True, text=True, check=False
        )

    return run


@pytest.mark.parametrize("present", [EVERYTHING, ("image", "motion"), ("text",)])
@pytest.mark.parametrize("rung", ["float", "small"])
def test_it_predicts_what_edgefuse_predicts(
    predict: Predict, tiny_bundle: Path, tiny_tensors: Mapping[str, Array], present: tuple[str, ...], rung: str
) -> None:
    given = {name: tiny_tensors[name] for name in present}
    done = predict(tiny_bundle, "--rung", rung, **given)
    assert (done.returncode, done.stderr) == (0, "")
    answer = json.loads(done.stdout)
    with edgefuse.load(tiny_bundle, rung=rung) as pipeline:
        expected = pipeline(**given)
    logits = expected.outputs["logits"].ravel().astype(np.float32)
    np.testing.assert_allclose(answer["outputs"]["logits"], logits, atol=1e-5)
    assert answer["label"] == expected.label


def test_it_reads_the_archive_form(
    predict: Predict,
    tmp_path: Path,
    tiny_bundle: Path,
    tiny_manifest: Manifest,
    tiny_contents: Mapping[str, bytes],
    tiny_tensors: Mapping[str, Array],
) -> None:
    archive = tmp_path / "tiny.edgefuse"
    write_bundle(archive, tiny_manifest, tiny_contents)
    assert predict(archive, **tiny_tensors).stdout == predict(tiny_bundle, **tiny_tensors).stdout
    archive.write_bytes(archive.read_bytes() + b"\0")
    refused = predict(archive, **tiny_tensors)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == "error: the archive is not a bundle: it does not end with a plain end record.\n"


@pytest.mark.parametrize("variable", [False, True])
def test_it_cuts_and_pads_a_clip_as_edgefuse_does(predict: Predict, tmp_path: Path, variable: bool) -> None:
    bundle = float_bundle(tmp_path / "watcher", find(video_model.model(variable=variable)), {})
    frames = np.random.default_rng(0).integers(0, 256, (9, 4, 5, 3), dtype=np.uint8)
    with edgefuse.load(bundle) as pipeline:
        for count in (1, 4, 9):
            answer = json.loads(predict(bundle, clip=frames[:count]).stdout)
            expected = pipeline(clip=frames[:count]).outputs["logits"].ravel().astype(np.float32)
            np.testing.assert_allclose(answer["outputs"]["logits"], expected, atol=1e-5)
    refused = predict(bundle, clip=frames[:2, :3])
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == "error: 'clip' has 90 bytes, and it takes 360 of uint8.\n"


def test_nothing_is_left_at_home(
    cpp_reader: Path,
    written: Callable[..., list[str]],
    tmp_path: Path,
    tiny_bundle: Path,
    tiny_tensors: Mapping[str, Array],
) -> None:
    """ONNX Runtime's telemetry keeps a device's id there, unless it finds itself on a build server."""
    home = tmp_path / "home"
    home.mkdir()
    subprocess.run([cpp_reader, tiny_bundle, *written(**tiny_tensors)], env={"HOME": str(home)}, check=True)
    assert list(home.iterdir()) == []


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_damaged_file_is_refused_with_a_sentence(
    predict: Predict, tiny_bundle: Path, tiny_tensors: Mapping[str, Array]
) -> None:
    damage(tiny_bundle / "stages" / "fusion.float.onnx")
    done = predict(tiny_bundle, **tiny_tensors)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: the file 'stages/fusion.float.onnx' is damaged: its SHA-256 is not the one in the manifest.\n"
    )


def test_a_damaged_manifest_another_digest_and_a_stray_file_are_refused(
    predict: Predict, tiny_bundle: Path, tiny_tensors: Mapping[str, Array]
) -> None:
    assert "it is not the one" not in predict(tiny_bundle, **tiny_tensors).stderr
    assert "not the one that was pinned" in predict(tiny_bundle, "--digest", "0" * 64, **tiny_tensors).stderr
    (tiny_bundle / "stages" / "stray.onnx").write_bytes(b"")
    assert "which its manifest does not list" in predict(tiny_bundle, **tiny_tensors).stderr
    (tiny_bundle / "stages" / "stray.onnx").unlink()
    (tiny_bundle / "stages" / "link.onnx").symlink_to("/dev/null")
    assert "no regular file: 'stages/link.onnx'" in predict(tiny_bundle, **tiny_tensors).stderr
    (tiny_bundle / "stages" / "link.onnx").unlink()
    damage(tiny_bundle / "manifest.json")
    assert "manifest.json is damaged" in predict(tiny_bundle, **tiny_tensors).stderr


def rewritten(bundle: Path, old: bytes, new: bytes) -> None:
    """Change the manifest and give it its digest, as an attacker would."""
    path = bundle / "manifest.json"
    text = path.read_bytes()
    assert old in text
    path.write_bytes(text.replace(old, new, 1))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    (bundle / "manifest.sha256").write_text(f"{digest}  manifest.json\n")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (b'"backend": "onnx"', b'"backend": "onnx",\n  "backend": "null"', "the key 'backend' twice in one object"),
        (b'"backend": "onnx"', b'"backend": "onnx",\n  "hook": "rm"', "the unknown field 'hook' in a Candidate"),
        (b'"default_rung"', b'"backend": "onnx",\n  "default_rung"', "the unknown field 'backend' in a Manifest"),
        (b'"schema": [\n    2,', b'"schema": [\n    3,', "is of schema 3.3, and this reader knows 1.x and 2.x"),
        (b'"schema": [\n    2,', b'"schema": [\n    1,', "is not a valid manifest"),
        (b'"backend": "onnx"', b'"backend": 7', "is not a valid manifest"),
        (
            b'"backend": "onnx"',
            b'"backend": "abacus"',
            "the stage 'fusion' needs the backend 'abacus', which this program was not built with: it has onnx",
        ),
    ],
)
def test_a_manifest_that_is_not_strict_is_refused(
    predict: Predict, tiny_bundle: Path, tiny_tensors: Mapping[str, Array], old: bytes, new: bytes, words: str
) -> None:
    rewritten(tiny_bundle, old, new)
    done = predict(tiny_bundle, **tiny_tensors)
    assert done.returncode == 2
    assert words in done.stderr


def test_wrong_inputs_are_one_sentence_each(
    predict: Predict, tiny_bundle: Path, tiny_tensors: Mapping[str, Array]
) -> None:
    assert "no modality is present" in predict(tiny_bundle).stderr
    assert (
        "'image' has 63 bytes, and it takes 64 of uint8"
        in predict(tiny_bundle, image=tiny_tensors["image"].ravel()[:63]).stderr
    )
    assert "this bundle has no modality 'smell'" in predict(tiny_bundle, smell=tiny_tensors["image"]).stderr
    assert "this bundle has no rung 'best'" in predict(tiny_bundle, "--rung", "best", **tiny_tensors).stderr


@pytest.mark.parametrize("rung", ["float", "small"])
def test_it_reads_schema_1(predict: Predict, tiny_bundle: Path, tiny_tensors: Mapping[str, Array], rung: str) -> None:
    done = predict(OLD, "--rung", rung, **tiny_tensors)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == predict(tiny_bundle, "--rung", rung, **tiny_tensors).stdout


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (b'"backend": "onnx"', b'"backend": "tflite"', "needs the backend 'tflite', which this program was not built"),
        (b'"backend": "onnx",', b"", "is not a valid manifest"),
        (b'"backend": "onnx"', b'"backend": "onnx",\n  "hook": "rm"', "the unknown field 'hook' in a Manifest"),
        (b'"backend": "onnx"', b'"backend": "onnx",\n  "backend": "onnx"', "the key 'backend' twice in one object"),
        (
            b'"opset": "20"',
            b'"opset": "20",\n  "backend": "onnx"',
            "the field 'backend' in a Candidate, which schema 1",
        ),
    ],
)
def test_a_manifest_of_schema_1_that_is_not_strict_is_refused(
    predict: Predict, tmp_path: Path, tiny_tensors: Mapping[str, Array], old: bytes, new: bytes, words: str
) -> None:
    with zipfile.ZipFile(OLD) as archive:
        archive.extractall(tmp_path / "old")
    rewritten(tmp_path / "old", old, new)
    done = predict(tmp_path / "old", **tiny_tensors)
    assert done.returncode == 2
    assert words in done.stderr


@pytest.mark.parametrize("present", [EVERYTHING, ("image", "motion"), ("text",)])
def test_a_bundle_for_two_runtimes_runs_in_both(
    cpp_reader_of_two: Path,
    written: Callable[..., list[str]],
    joined_bundle: Path,
    tiny_tensors: Mapping[str, Array],
    present: tuple[str, ...],
) -> None:
    given = {name: tiny_tensors[name] for name in present}
    command: list[str | Path] = [cpp_reader_of_two, joined_bundle, "--rung", "joined", *written(**given)]
    server = {"STAGE_SERVER_PYTHON": sys.executable, "STAGE_SERVER": str(HERE / "stage_server.py")}
    done = subprocess.run(command, env=os.environ | server, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr  # LiteRT itself says there what it uses
    answer = json.loads(done.stdout)
    with edgefuse.load(joined_bundle) as pipeline:
        expected = pipeline(**given)
    logits = expected.outputs["logits"].ravel().astype(np.float32)
    np.testing.assert_allclose(answer["outputs"]["logits"], logits, atol=1e-5)
    assert answer["label"] == expected.label


def test_a_runtime_that_is_not_compiled_in_concerns_only_the_rungs_that_need_it(
    predict: Predict, joined_bundle: Path, tiny_tensors: Mapping[str, Array]
) -> None:
    assert predict(joined_bundle, "--rung", "float", **tiny_tensors).returncode == 0
    done = predict(joined_bundle, **tiny_tensors)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: the stage 'motion_encoder' needs the backend 'tflite', which this program was not built with: it has "
        "onnx.\n"
    )


def test_a_file_of_another_format_reaches_no_runtime(
    predict: Predict, joined_bundle: Path, tiny_tensors: Mapping[str, Array]
) -> None:
    rewritten(joined_bundle, b'"backend": "tflite"', b'"backend": "onnx"')
    done = predict(joined_bundle, **tiny_tensors)
    assert done.returncode == 2
    assert "the backend 'onnx' does not open 'stages/motion_encoder.float.tflite': its files end with .onnx" in (
        done.stderr
    )
