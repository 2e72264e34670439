"""What the conformance tests of the backends ask for, from two bundles beside this file: no torch, no onnx.

This file is copied into a folder with `tests/runtime/test_backends.py` and runs on the emulated processor.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from edgefuse.bundle.manifest import Candidate, GoldenCase, Manifest
from edgefuse.bundle.reader import open_bundle

HERE = Path(__file__).parent


def _manifest(name: str) -> Manifest:
    with open_bundle(HERE / name) as bundle:
        return bundle.manifest


def _files(name: str) -> dict[str, bytes]:
    """Return the stage files of a bundle by candidate."""
    with open_bundle(HERE / name) as bundle:
        return {candidate.id: bundle.read(candidate.file) for candidate in bundle.manifest.candidates}


@pytest.fixture(scope="session")
def tiny_manifest() -> Manifest:
    return _manifest("onnx")


@pytest.fixture(scope="session")
def tiny_candidates(tiny_manifest: Manifest) -> tuple[Candidate, ...]:
    return tiny_manifest.candidates


@pytest.fixture(scope="session")
def tiny_files() -> Mapping[str, bytes]:
    return _files("onnx")


@pytest.fixture(scope="session")
def tflite_manifest() -> Manifest:
    return _manifest("tflite.edgefuse")


@pytest.fixture(scope="session")
def tflite_files() -> Mapping[str, bytes]:
    return {name.removesuffix(".float"): data for name, data in _files("tflite.edgefuse").items()}


@pytest.fixture(scope="session")
def tiny_golden(tiny_manifest: Manifest) -> tuple[tuple[GoldenCase, ...], Mapping[str, bytes]]:
    cases = tiny_manifest.golden
    with open_bundle(HERE / "onnx") as bundle:
        files = {tensor.file: bundle.read(tensor.file) for case in cases for tensor in (*case.inputs, *case.outputs)}
    return cases, files
