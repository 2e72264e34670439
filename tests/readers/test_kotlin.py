"""The Kotlin reader of docs/readers/kotlin against edgefuse itself, on a Java VM."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from filelock import FileLock

import edgefuse
from edgefuse.bundle.manifest import Manifest
from edgefuse.bundle.writer import write_bundle
from edgefuse.datasets.packages import cache_folder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

Array = npt.NDArray[Any]
HERE = Path(__file__).parent
READER = HERE.parents[1] / "docs" / "readers" / "kotlin"
OLD = HERE.parent / "bundle" / "data" / "tiny-1.2.edgefuse"
COMPILER = "kotlin-compiler@2.4.20"
COMPILER_SHA256 = "c23dab400d7ce5ea8b6c909947c0ca5454189e4bb1108695b5f464500e5e950f"


@pytest.fixture(scope="module")
def kotlinc() -> Path:
    """JetBrains' compiler, fetched by npm into the cache and never installed."""
    if not (shutil.which("npm") and shutil.which("java")):
        pytest.skip("the Kotlin reader was not checked: no npm or no java")
    folder = cache_folder() / "readers" / COMPILER.replace("@", "-")
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):
        if not (folder / "package" / "bin" / "kotlinc").is_file():
            command = ["npm", "pack", "--silent", COMPILER]
            fetched = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
            if fetched.returncode:
                pytest.skip(f"the Kotlin reader was not checked: npm could not fetch {COMPILER}")
            archive = folder / fetched.stdout.split()[-1]
            assert hashlib.sha256(archive.read_bytes()).hexdigest() == COMPILER_SHA256
            with tarfile.open(archive) as files:
                files.extractall(folder, filter="data")
            archive.unlink()
    return folder / "package" / "bin" / "kotlinc"


def compiled(kotlinc: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", kotlinc, *arguments], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def reader(kotlinc: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of the reader but the file that calls LiteRT, and a program around it, as a jar."""
    sources = [path for path in sorted(READER.glob("*.kt")) if path.name != "LiteRtStage.kt"]
    jar = tmp_path_factory.mktemp("kotlin") / "reader.jar"
    done = compiled(kotlinc, *sources, HERE / "kotlin" / "Predict.kt", "-Werror", "-include-runtime", "-d", jar)
    assert done.returncode == 0, done.stderr
    return jar


Predict = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def predict(reader: Path, written: Callable[..., list[str]]) -> Predict:
    """Run the reader; arrays go through files."""

    def run(bundle: Path, *options: str, **arrays: Array) -> subprocess.CompletedProcess[str]:
        command: list[str | Path] = [
            "java",
            "-cp",
            reader,
            "edgefuse.PredictKt",
            sys.executable,
            HERE / "stage_server.py",
            bundle,
        ]
        return subprocess.run([*command, *options, *written(**arrays)], capture_output=True, text=True, check=False)

    return run


@pytest.mark.parametrize("present", [("image", "text", "motion"), ("image", "motion"), ("text",)])
def test_it_predicts_what_edgefuse_predicts(
    predict: Predict, tiny_bundle: Path, tiny_tensors: Mapping[str, Array], present: tuple[str, ...]
) -> None:
    given = {name: tiny_tensors[name] for name in present}
    done = predict(tiny_bundle, **given)
    assert (done.returncode, done.stderr) == (0, "")
    with edgefuse.load(tiny_bundle) as pipeline:
        expected = pipeline(**given).outputs["logits"].ravel().astype(np.float32)
    np.testing.assert_allclose(np.array(done.stdout.split(), np.float32), expected, atol=1e-5)


def test_it_reads_the_archive_form(
    predict: Predict,
    tmp_path: Path,
    tiny_manifest: Manifest,
    tiny_contents: Mapping[str, bytes],
    tiny_bundle: Path,
    tiny_tensors: Mapping[str, Array],
) -> None:
    archive = tmp_path / "tiny.edgefuse"
    write_bundle(archive, tiny_manifest, tiny_contents)
    assert predict(archive, **tiny_tensors).stdout == predict(tiny_bundle, **tiny_tensors).stdout
    archive.write_bytes(archive.read_bytes() + b"\0")
    refused = predict(archive, **tiny_tensors)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == "error: the archive is not a bundle: it does not end with a plain end record.\n"


def test_what_is_damaged_or_not_strict_is_refused(
    predict: Predict, tiny_bundle: Path, tiny_tensors: Mapping[str, Array]
) -> None:
    path = tiny_bundle / "stages" / "fusion.float.onnx"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    done = predict(tiny_bundle, **tiny_tensors)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: the file 'stages/fusion.float.onnx' is damaged: its SHA-256 is not the one in the manifest.\n"
    )
    assert "not the one that was pinned" in predict(tiny_bundle, "--digest", "0" * 64, **tiny_tensors).stderr
    manifest = tiny_bundle / "manifest.json"
    twice = manifest.read_bytes().replace(b'"backend": "onnx"', b'"backend": "onnx", "backend": "onnx"')
    manifest.write_bytes(twice)
    assert "manifest.json is damaged" in predict(tiny_bundle, **tiny_tensors).stderr
    digest = hashlib.sha256(twice).hexdigest()
    (tiny_bundle / "manifest.sha256").write_text(f"{digest}  manifest.json\n")
    assert "the key 'backend' stands twice in one object" in predict(tiny_bundle, **tiny_tensors).stderr


@pytest.mark.parametrize("rung", ["float", "small"])
def test_it_reads_schema_1(predict: Predict, tiny_bundle: Path, tiny_tensors: Mapping[str, Array], rung: str) -> None:
    done = predict(OLD, "--rung", rung, **tiny_tensors)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == predict(tiny_bundle, "--rung", rung, **tiny_tensors).stdout


@pytest.mark.parametrize(
    ("source", "old", "new", "words"),
    [
        ("1.2", b'"backend": "onnx"', b'"backend": "abacus"', "needs the backend 'abacus', which this app does not"),
        ("1.2", b'"backend": "onnx",', b"", "manifest.json has no 'backend' in a Manifest"),
        ("1.2", b'"opset": "20"', b'"opset": "20", "backend": "onnx"', "unknown field 'backend' in a Candidate"),
        ("2.0", b'"backend": "onnx",', b"", "manifest.json has no 'backend' in a Candidate"),
        ("2.0", b'"default_rung"', b'"backend": "onnx", "default_rung"', "unknown field 'backend' in a Manifest"),
        ("2.0", b'"schema": [\n    2', b'"schema": [\n    3', "is of schema 3, and this reader knows 1 and 2"),
        (
            "2.0",
            b'"backend": "onnx"',
            b'"backend": "tflite"',
            "the backend 'tflite' does not open 'stages/fusion.float",
        ),
    ],
)
def test_a_manifest_that_is_not_of_its_schema_is_refused(
    predict: Predict,
    tmp_path: Path,
    tiny_bundle: Path,
    tiny_tensors: Mapping[str, Array],
    source: str,
    old: bytes,
    new: bytes,
    words: str,
) -> None:
    folder = tiny_bundle
    if source == "1.2":
        folder = tmp_path / "old"
        with zipfile.ZipFile(OLD) as archive:
            archive.extractall(folder)
    text = (folder / "manifest.json").read_bytes()
    assert old in text
    changed = text.replace(old, new, 1)
    (folder / "manifest.json").write_bytes(changed)
    (folder / "manifest.sha256").write_text(f"{hashlib.sha256(changed).hexdigest()}  manifest.json\n")
    done = predict(folder, **tiny_tensors)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr


@pytest.mark.parametrize("present", [("image", "text", "motion"), ("image", "motion"), ("text",)])
def test_a_bundle_for_two_runtimes_runs_in_both(
    predict: Predict, joined_bundle: Path, tiny_tensors: Mapping[str, Array], present: tuple[str, ...]
) -> None:
    given = {name: tiny_tensors[name] for name in present}
    done = predict(joined_bundle, **given)
    assert done.returncode == 0, done.stderr  # LiteRT itself says there what it uses
    with edgefuse.load(joined_bundle) as pipeline:
        expected = pipeline(**given).outputs["logits"].ravel().astype(np.float32)
    np.testing.assert_allclose(np.array(done.stdout.split(), np.float32), expected, atol=1e-5)


def test_a_runtime_that_is_not_there_concerns_only_the_rungs_that_need_it(
    predict: Predict, joined_bundle: Path, tiny_tensors: Mapping[str, Array]
) -> None:
    assert predict(joined_bundle, "--backends", "onnx", "--rung", "float", **tiny_tensors).returncode == 0
    done = predict(joined_bundle, "--backends", "onnx", **tiny_tensors)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: the stage 'motion_encoder' needs the backend 'tflite', which this app does not have: it has onnx.\n"
    )


def test_the_file_that_calls_litert_is_well_formed(kotlinc: Path, reader: Path, tmp_path: Path) -> None:
    # LiteRT's Java library is not in the registries of the build: all that may be missing is what comes from there.
    done = compiled(kotlinc, READER / "LiteRtStage.kt", "-cp", reader, "-d", tmp_path / "out")
    errors = [line for line in done.stderr.splitlines() if "error:" in line]
    assert errors
    assert all("unresolved reference" in line or "cannot infer type" in line for line in errors), done.stderr
