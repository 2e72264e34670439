"""Bundles on Arm: real aarch64 wheels under an emulator that has one processor's instructions and no others."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest

import edgefuse
from benchmarks.portability import judge
from benchmarks.portability.machines import PROCESSORS, Device

if TYPE_CHECKING:
    from tests.arm64.conftest import Asked

BACKENDS = ("onnx", "tflite")
BUNDLES = ("onnx-float", "onnx-int8", "tflite-float", "tflite-int8")
# Floats are computed alike everywhere: `make portability` has all on all.
PLACES = [
    *((PROCESSORS[0], name) for name in ("onnx-float", "tflite-int8")),
    *(pytest.param(PROCESSORS[0], name, marks=pytest.mark.exhaustive) for name in ("onnx-int8", "tflite-float")),
    *(
        pytest.param(processor, name, marks=pytest.mark.exhaustive)
        for processor in PROCESSORS[1:]
        for name in BUNDLES
        if name.endswith("int8")
    ),
]
TESTS = Path(__file__).parents[1]


def test_the_processor_has_its_own_instructions_only(emulated: Mapping[str, Device]) -> None:
    code = "from edgefuse.runtime.processor import processor as p; print(p().architecture, 'asimddp' in p().features)"
    said = {name: device("-c", code).stdout.split() for name, device in emulated.items()}
    dot_product = {"cortex-a53": "False", "cortex-a76": "True", "neoverse-n1": "True"}
    assert said == {name: ["aarch64", has] for name, has in dot_product.items()}


@pytest.mark.slow
@pytest.mark.parametrize(("device", "name"), PLACES, indirect=["device"])
def test_bundles_are_verified(device: Device, asked: Mapping[str, Asked], name: str) -> None:
    judge.verify(device, asked[name].question.bundle)


@pytest.mark.slow
@pytest.mark.parametrize(("device", "name"), PLACES, indirect=["device"])
def test_answers_are_those_of_x86(device: Device, asked: Mapping[str, Asked], name: str, tmp_path: Path) -> None:
    asked[name].check(device, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_run_answers_from_arrays(device: Device, asked: Mapping[str, Asked], backend: str, tmp_path: Path) -> None:
    bundle, rng = asked[f"{backend}-int8"].question.bundle, np.random.default_rng(5)
    raw: dict[str, npt.NDArray[Any]] = {
        "image": rng.integers(0, 256, (16, 16), dtype=np.uint8),
        "sensor": rng.standard_normal((1, 9, 8)).astype(np.float32),
    }
    files: list[str | Path] = []
    for name, value in raw.items():
        np.save(tmp_path / f"{name}.npy", value)
        files += [f"--{name}", tmp_path / f"{name}.npy"]
    done = device("-m", "edgefuse", "run", bundle, *files, "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    with edgefuse.load(bundle) as pipeline:
        here = pipeline(**raw)
    assert said["present"] == list(raw)
    np.testing.assert_allclose(said["outputs"]["logits"], np.asarray(here.outputs["logits"], np.float32), atol=0.05)


@pytest.mark.slow
def test_backends_conform(device: Device, tmp_path: Path, tiny_bundle: Path, tflite_bundle: Path) -> None:
    folder = tmp_path / "conformance"
    shutil.copytree(tiny_bundle, folder / "onnx")
    shutil.copy(tflite_bundle, folder / "tflite.edgefuse")
    shutil.copy(TESTS / "arm64" / "root" / "conftest.py", folder)
    shutil.copy(TESTS / "runtime" / "test_backends.py", folder)
    options = ["-q", "-p", "no:cacheprovider", "-k", "onnx or tflite", "--rootdir", str(folder)]
    done = device("-m", "pytest", *options, str(folder), folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout
