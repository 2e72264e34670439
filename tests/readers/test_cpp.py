"""The C++ reader of docs/readers/cpp against edgefuse itself, on the same bundles."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import edgefuse
from edgefuse.bundle.manifest import Manifest
from edgefuse.bundle.writer import write_bundle

Array = npt.NDArray[Any]
Predict = Callable[..., "subprocess.CompletedProcess[str]"]
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
    import hashlib

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
        (b'"backend": "onnx"', b'"backend": "onnx",\n  "hook": "rm"', "the unknown field 'hook' in a Manifest"),
        (b'"schema": [\n    1,', b'"schema": [\n    2,', "is of schema 2."),
        (b'"backend": "onnx"', b'"backend": 7,', "is not a valid manifest"),
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
