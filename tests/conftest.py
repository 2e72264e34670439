"""The tiny model of `tests/tiny.py` as fixtures, for the tests of every area."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Generator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.internal.conjecture import providers
from hypothesis.internal.constants_ast import Constants

from edgefuse.bundle.manifest import Candidate, GoldenCase, Manifest
from edgefuse.bundle.spec import ModelSpec, StageSpec
from tests import tiny, tiny_tflite

# The same examples at every run of `make test`; `make attack` asks for the other profile, and a seed. A busy machine
# is not a failure: no deadline, and examples may be slow in the making.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("fixed", settings.get_profile("patient"), derandomize=True)
settings.register_profile("random", settings.get_profile("patient"), print_blob=True)
settings.load_profile("fixed")

TORCHS_FIRST_SEED = 67280421310721
"""Of its generator, when it is imported."""

# Tests run side by side: more threads than one each would wait for each other. Read when torch is loaded.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_configure(config: pytest.Config) -> None:
    """Let all workers of a run, and the processes they start, share what torch's compiler builds."""
    if not hasattr(config, "workerinput") and "TORCHINDUCTOR_CACHE_DIR" not in os.environ:
        folder = os.environ["TORCHINDUCTOR_CACHE_DIR"] = tempfile.mkdtemp(prefix="edgefuse-tests-")
        config.add_cleanup(partial(shutil.rmtree, folder, ignore_errors=True))


def pytest_sessionstart() -> None:
    """Take from Hypothesis what it draws from the constants of loaded modules: which are depends on what ran before."""
    if settings.default is not None and settings.default.derandomize:
        providers._get_local_constants = Constants


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Let torch draw in each test what it draws in a process of its own: which tests ran before is chance."""
    if (torch := sys.modules.get("torch")) is not None:
        torch.default_generator.manual_seed(TORCHS_FIRST_SEED)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes long: at the end one worker would sit through it while the other has nothing left."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, Any, Any]:
    """Escape what no encoding has (hostile names, in what a test printed): workers send their reports as UTF-8."""
    return _encodable((yield))


def _encodable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_encodable(key): _encodable(one) for key, one in value.items()}
    return type(value)(map(_encodable, value)) if isinstance(value, list | tuple) else value


@pytest.fixture(scope="session")
def tiny_spec() -> ModelSpec:
    """The modalities and the output of the tiny model."""
    return tiny.spec()


@pytest.fixture(scope="session")
def tiny_stages() -> tuple[StageSpec, ...]:
    """The wiring: image frontend, three encoders, fusion."""
    return tiny.stages()


@pytest.fixture(scope="session")
def tiny_files() -> Mapping[str, bytes]:
    """The ONNX files by candidate id."""
    return tiny.files()


@pytest.fixture(scope="session")
def tiny_tokenizer() -> bytes:
    """A word-level `tokenizer.json` over a handful of words."""
    return tiny.tokenizer()


@pytest.fixture(scope="session")
def tiny_golden() -> tuple[tuple[GoldenCase, ...], Mapping[str, bytes]]:
    """One golden case per stage, and the cases' files."""
    return tiny.golden()


@pytest.fixture(scope="session")
def tiny_candidates() -> tuple[Candidate, ...]:
    """A candidate per file, in the order of the ids."""
    return tiny.candidates()


@pytest.fixture(scope="session")
def tiny_manifest() -> Manifest:
    """A manifest with the rungs `float` (the default) and `small`."""
    return tiny.manifest()


@pytest.fixture(scope="session")
def tiny_contents() -> Mapping[str, bytes]:
    """The files of the bundle by path, without the manifest."""
    return tiny.contents()


@pytest.fixture
def tiny_bundle(tmp_path: Path, tiny_manifest: Manifest, tiny_contents: Mapping[str, bytes]) -> Path:
    """A fresh bundle folder, free to be damaged."""
    from edgefuse.bundle.writer import write_bundle

    path = tmp_path / "tiny"
    write_bundle(path, tiny_manifest, tiny_contents)
    return path


@pytest.fixture(scope="session")
def tflite_files() -> Mapping[str, bytes]:
    """The float stages as TFLite files of fixed shapes, by stage name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations between torch and its converter
        pytest.importorskip("torch")
        pytest.importorskip("litert_torch")
    return tiny_tflite.files()


@pytest.fixture(scope="session")
def tflite_manifest(tflite_files: Mapping[str, bytes]) -> Manifest:
    """The manifest of the TFLite twin, with the one rung `float`."""
    del tflite_files  # asks for the converter, or skips
    return tiny_tflite.manifest()


@pytest.fixture
def tflite_bundle(tmp_path: Path, tflite_manifest: Manifest) -> Path:
    """The tiny bundle for TFLite."""
    from edgefuse.bundle.writer import write_bundle

    path = tmp_path / "tiny-tflite.edgefuse"
    write_bundle(path, tflite_manifest, tiny_tflite.contents(tflite_manifest))
    return path


@pytest.fixture(scope="session")
def joined_manifest(tflite_files: Mapping[str, bytes]) -> Manifest:
    """The manifest of the tiny model with stages in ONNX Runtime and in LiteRT."""
    del tflite_files  # asks for the converter, or skips
    return tiny_tflite.joined()


@pytest.fixture
def joined_bundle(tmp_path: Path, joined_manifest: Manifest) -> Path:
    """The tiny bundle for two runtimes, as a folder that is free to be damaged."""
    from edgefuse.bundle.writer import write_bundle

    path = tmp_path / "tiny-joined"
    write_bundle(path, joined_manifest, tiny_tflite.contents(joined_manifest))
    return path
