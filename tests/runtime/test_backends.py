"""Every backend is held to this."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from edgefuse import registry
from edgefuse.bundle.manifest import BuildPlan, Candidate, GoldenCase, Manifest, Profile
from edgefuse.errors import BackendError, InputError, MissingExtraError
from edgefuse.runtime.backends.backend import Session, SessionOptions
from edgefuse.runtime.processor import available_processors

Array = npt.NDArray[Any]
# Of the one input whose size is open.
PLAN = BuildPlan(profiles=(Profile(port="values", minimum=(1, 1, 3), optimum=(1, 5, 3), maximum=(1, 5, 3)),))
BACKENDS = registry.names("backends")
# One computes nothing; the other may open a file in a stand-in's words.
READING = [name for name in BACKENDS if name not in ("null", "tensorrt")]
STAGES = ("image_frontend", "image_encoder", "text_encoder", "motion_encoder", "fusion")


def assert_close(value: Array, expected: Array) -> None:
    np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5)


class Kit:
    """One backend with the files of the tiny model."""

    def __init__(self, name: str, candidates: Mapping[str, Candidate], files: Mapping[str, bytes]) -> None:
        self.name = name
        self.backend = registry.create("backends", name)
        self.candidates = candidates
        self.files = files

    def open(self, stage: str, threads: int = 1) -> Session:
        candidate = self.candidates[stage]
        options = SessionOptions(threads=threads, plan=PLAN if stage == "motion_encoder" else None)
        session: Session = self.backend.open(self.files[stage], candidate.inputs, candidate.outputs, options)
        return session


@pytest.fixture(params=BACKENDS)
def kit(request: pytest.FixtureRequest) -> Kit:
    if registry.create("backends", request.param).suffix == ".tflite":
        manifest: Manifest = request.getfixturevalue("tflite_manifest")
        files = request.getfixturevalue("tflite_files")
    else:
        manifest, files = request.getfixturevalue("tiny_manifest"), request.getfixturevalue("tiny_files")
        files = {stage: files[f"{stage}.float"] for stage in STAGES}
    return Kit(request.param, {c.stage: c for c in manifest.candidates if c.scheme == "float"}, files)


@pytest.fixture
def golden(tiny_golden: tuple[tuple[GoldenCase, ...], Mapping[str, bytes]]) -> dict[str, tuple[dict[str, Array], ...]]:
    """(feeds, expected outputs) by stage."""
    cases, files = tiny_golden
    return {
        case.stage: tuple(
            {t.port: np.frombuffer(files[t.file], t.dtype).reshape(t.shape) for t in side}
            for side in (case.inputs, case.outputs)
        )
        for case in cases
    }


@pytest.mark.parametrize("stage", STAGES)
def test_files_compute_the_golden_outputs(
    kit: Kit, golden: dict[str, tuple[dict[str, Array], ...]], stage: str
) -> None:
    feeds, expected = golden[stage]
    results = kit.open(stage).run(feeds)
    assert results.keys() == expected.keys()
    for port, value in expected.items():
        assert results[port].shape == value.shape
        assert results[port].dtype == value.dtype
        if kit.name != "null":
            assert_close(results[port], value)


def test_outputs_survive_the_next_call(kit: Kit) -> None:
    session = kit.open("image_frontend")
    first = session.run({"pixels": np.zeros((1, 8, 8, 1), np.uint8)})["normalised"]
    session.run({"pixels": np.full((1, 8, 8, 1), 255, np.uint8)})
    assert not first.any()


def test_feeds_are_not_changed_and_may_be_read_only(kit: Kit) -> None:
    pixels = np.arange(64, dtype=np.uint8).reshape(1, 8, 8, 1)
    pixels.setflags(write=False)
    kit.open("image_frontend").run({"pixels": pixels})
    assert pixels.ravel().tolist() == list(range(64))


def test_strided_feeds_give_the_same(kit: Kit) -> None:
    session = kit.open("image_frontend")
    wide = np.random.default_rng(0).integers(0, 256, (1, 8, 16, 1), dtype=np.uint8)
    strided = wide[:, :, ::2]
    expected = session.run({"pixels": np.ascontiguousarray(strided)})["normalised"]
    np.testing.assert_array_equal(session.run({"pixels": strided})["normalised"], expected)


def test_several_threads_give_the_same(kit: Kit, golden: dict[str, tuple[dict[str, Array], ...]]) -> None:
    feeds, _ = golden["image_encoder"]
    one, two = (
        kit.open("image_encoder").run(feeds),
        kit.open("image_encoder", threads=min(2, available_processors())).run(feeds),
    )
    assert_close(one["feature"], two["feature"])


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_a_shorter_input_gives_the_same_in_files_of_fixed_and_open_size(kit: Kit, steps: int) -> None:
    values = np.random.default_rng(1).normal(size=(1, 5, 3)).astype(np.float32)
    length = np.array([steps], np.int32)
    session = kit.open("motion_encoder")
    padded = session.run({"values": values, "length": length})["feature"]
    short = session.run({"values": values[:, :steps], "length": length})["feature"]
    assert_close(short, padded)


def test_a_missing_feed_is_named(kit: Kit) -> None:
    with pytest.raises(InputError, match="do not match its inputs: got ids, expected ids, length"):
        kit.open("text_encoder").run({"ids": np.zeros((1, 6), np.int32)})


def test_an_unknown_feed_is_named(kit: Kit) -> None:
    with pytest.raises(InputError, match="do not match its inputs: got frames, expected pixels"):
        kit.open("image_frontend").run({"frames": np.zeros((1, 8, 8, 1), np.uint8)})


def test_a_wrong_type_is_refused(kit: Kit) -> None:
    with pytest.raises(InputError, match="'pixels' has the wrong type: got float32, expected uint8"):
        kit.open("image_frontend").run({"pixels": np.zeros((1, 8, 8, 1), np.float32)})


@pytest.mark.parametrize("shape", [(8, 8, 1), (1, 9, 8, 1), (2, 8, 8, 1), (1, 8, 8, 3)])
def test_a_wrong_shape_is_refused(kit: Kit, shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"'pixels' has the wrong shape: got \[.*\], expected \[1, 8, 8, 1\]"):
        kit.open("image_frontend").run({"pixels": np.zeros(shape, np.uint8)})


@pytest.mark.parametrize("backend", READING)
@pytest.mark.parametrize("data", [b"", b"not a model", b"\x00" * 100])
def test_damaged_files_are_refused(backend: str, data: bytes, tiny_candidates: tuple[Candidate, ...]) -> None:
    candidate = tiny_candidates[0]
    with pytest.raises(BackendError, match=r"cannot open a stage file: got .* Fix: check that the bundle was made for"):
        registry.create("backends", backend).open(data, candidate.inputs, candidate.outputs, SessionOptions())


@pytest.mark.parametrize("kit", READING, indirect=True)
@pytest.mark.parametrize("side", ["inputs", "outputs"])
def test_bindings_that_do_not_fit_the_file_are_refused(kit: Kit, side: str) -> None:
    candidate = kit.candidates["image_encoder"]
    renamed = tuple(msgspec.structs.replace(b, tensor="elsewhere") for b in getattr(candidate, side))
    wrong = msgspec.structs.replace(candidate, **{side: renamed})
    with pytest.raises(BackendError, match=f"the {side} of a stage file do not match the manifest: got .* elsewhere"):
        kit.backend.open(kit.files["image_encoder"], wrong.inputs, wrong.outputs, SessionOptions())


def test_an_error_of_onnx_runtime_is_chained(tiny_files: Mapping[str, bytes], tiny_manifest: Manifest) -> None:
    candidate = tiny_manifest.candidate("text_encoder.float")
    session = registry.create("backends", "onnx").open(
        tiny_files[candidate.id], candidate.inputs, candidate.outputs, SessionOptions()
    )
    outside = {"ids": np.full((1, 6), 99, np.int32), "length": np.array([2], np.int32)}
    with pytest.raises(BackendError, match=r"ONNX Runtime cannot run a stage: got .*out of data bounds") as caught:
        session.run(outside)
    assert caught.value.__cause__ is not None


def test_versions_name_the_runtime(kit: Kit) -> None:
    found = kit.backend.versions()
    assert bool(found) == bool(kit.backend.suffix)
    assert all(text[0].isdigit() for text in list(found.values())[:1])


def test_a_missing_runtime_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for module in ("onnx.backend", "onnx.api"):
        monkeypatch.delitem(sys.modules, f"edgefuse.runtime.backends.{module}", raising=False)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"needs .* 'onnxruntime'.* Fix: pip install 'edgefuse\[onnx\]'"):
        registry.create("backends", "onnx")
