"""What the pipelines of one open bundle share, how long it lives, and how a rung is changed under calls."""

from __future__ import annotations

import gc
import hashlib
import os
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

import edgefuse
from benchmarks.swaps import Callers, Holder, counted
from edgefuse.bundle.manifest import Candidate, Manifest, Tolerance
from edgefuse.bundle.reader import open_bundle
from edgefuse.bundle.spec import Source, StageInput, StageOutput, StageSpec, TensorSpec, tensor
from edgefuse.bundle.writer import write_bundle
from edgefuse.errors import BackendError, BundleError, InputError
from edgefuse.runtime.backends.onnx.backend import OnnxBackend
from edgefuse.runtime.pipeline import Pipeline
from tests import tiny
from tests.runtime.test_forks import in_child

Load = Callable[..., Pipeline]
Raw = dict[str, Any]

SWAPS, LOADS = 200, 20
DIFFERS = "stages/image_encoder.dynamic_wi8_af32.onnx"


@pytest.fixture
def archive(tmp_path: Path, tiny_manifest: Manifest, tiny_contents: dict[str, bytes]) -> Path:
    """The tiny bundle as one file."""
    write_bundle(tmp_path / "tiny.edgefuse", tiny_manifest, tiny_contents)
    return tmp_path / "tiny.edgefuse"


@pytest.fixture
def opened_files(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The size of every file that ONNX Runtime opens from here on."""
    sizes: list[int] = []
    real = OnnxBackend.open

    def noting(self: OnnxBackend, data: bytes, *arguments: Any) -> Any:
        sizes.append(len(data))
        return real(self, data, *arguments)

    monkeypatch.setattr(OnnxBackend, "open", noting)
    return sizes


def logits(pipeline: Pipeline, raw: Raw) -> npt.NDArray[np.float32]:
    return np.asarray(pipeline(**raw).outputs["logits"], np.float32)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names are all that is needed


def test_another_rung_opens_what_differs_and_both_go_on(
    load_tiny: Load, tiny_raw: Raw, opened_files: list[int], tiny_files: dict[str, bytes]
) -> None:
    with load_tiny() as alone, load_tiny(rung="small") as small_alone:
        expected = logits(alone, tiny_raw), logits(small_alone, tiny_raw)
    opened_files.clear()
    with load_tiny() as pipeline:
        assert opened_files == sorted(opened_files, reverse=True), "the largest first"
        assert len(opened_files) == 5
        small = pipeline.at("small")
        assert opened_files[5:] == [len(tiny_files["image_encoder.dynamic_wi8_af32"])]
        assert (pipeline.rung.name, small.rung.name) == ("float", "small")
        again = small.at(None)
        assert (again.rung.name, len(opened_files)) == ("float", 6)
        for one, answer in ((pipeline, expected[0]), (small, expected[1]), (again, expected[0])):
            np.testing.assert_array_equal(logits(one, tiny_raw), answer)


def test_rungs_that_share_an_encoder_share_its_features(load_tiny: Load, tiny_raw: Raw) -> None:
    with load_tiny() as pipeline, pipeline.at("small") as small:
        pipeline(**tiny_raw)
        assert (pipeline.cache.hits, pipeline.cache.misses) == (0, 4)
        small(**tiny_raw)
        assert (pipeline.cache.hits, pipeline.cache.misses) == (3, 5), "the image encoder alone ran again"
        assert small.cache is pipeline.cache


def test_closing_one_leaves_the_others(load_tiny: Load, tiny_raw: Raw, opened_files: list[int]) -> None:
    first = load_tiny()
    with first.at("small") as small:
        expected = logits(small, tiny_raw)
        first.close()
        np.testing.assert_array_equal(logits(small, tiny_raw), expected)
        with pytest.raises(InputError, match=r"this pipeline is closed\. Fix: load the bundle again\."):
            first.at("small")
        opened_files.clear()
        small.at("float").close()
        assert len(opened_files) == 1, "what no pipeline used any more was freed"


@pytest.mark.parametrize("ending", ["closed", "let go of"])
@pytest.mark.parametrize("form", ["archive", "tiny_bundle"])
def test_the_last_pipeline_closes_the_bundle(request: pytest.FixtureRequest, form: str, ending: str) -> None:
    path = request.getfixturevalue(form)
    edgefuse.load(path).close()
    gc.collect()
    before = descriptors()
    pipelines = [edgefuse.load(path)]
    pipelines.append(pipelines[0].at("small"))
    assert descriptors() == before + 1
    for _ in range(2):
        pipeline = pipelines.pop()
        assert descriptors() == before + 1
        if ending == "closed":
            pipeline.close()
        else:
            del pipeline
    assert descriptors() == before
    with pytest.raises(BundleError, match="no such rung"):
        edgefuse.load(path, rung="tiny")
    assert descriptors() == before


def test_an_archive_that_is_replaced_is_still_read(archive: Path, tiny_raw: Raw, tmp_path: Path) -> None:
    with edgefuse.load(archive) as pipeline:
        (tmp_path / "other").write_bytes(b"another bundle")
        (tmp_path / "other").replace(archive)
        assert pipeline.at("small")(**tiny_raw).label in ("stop", "go", "wait")


def test_an_archive_that_is_overwritten_is_refused_and_the_old_rung_goes_on(archive: Path, tiny_raw: Raw) -> None:
    with edgefuse.load(archive) as pipeline:
        expected = logits(pipeline, tiny_raw)
        archive.write_bytes(bytes(archive.stat().st_size))
        with pytest.raises(BundleError, match=rf"refused: '{DIFFERS}' is damaged: got SHA-256 .* Fix: copy it again"):
            pipeline.at("small")
        np.testing.assert_array_equal(logits(pipeline, tiny_raw), expected)


def test_a_file_that_is_gone_is_refused_and_the_old_rung_goes_on(tiny_bundle: Path, tiny_raw: Raw) -> None:
    with edgefuse.load(tiny_bundle) as pipeline:
        expected = logits(pipeline, tiny_raw)
        (tiny_bundle / DIFFERS).unlink()
        for _ in range(2):
            with pytest.raises(BundleError, match="cannot be read: got 'No such file or directory'"):
                pipeline.at("small")
        with pytest.raises(BundleError, match="no such rung: got 'tiny', expected float or small"):
            pipeline.at("tiny")
        np.testing.assert_array_equal(logits(pipeline, tiny_raw), expected)


def test_a_bundle_of_the_caller_stays_the_callers(tiny_bundle: Path, tiny_raw: Raw) -> None:
    with open_bundle(tiny_bundle) as bundle:
        edgefuse.load(bundle).close()
        pipeline = edgefuse.load(bundle)
    with pytest.raises(BundleError, match="cannot be read, the bundle is closed"):
        pipeline.at("small")
    assert pipeline(**tiny_raw).label in ("stop", "go", "wait")


def test_a_forked_child_changes_no_rung(load_tiny: Load) -> None:
    with load_tiny() as pipeline:
        assert "opened before a fork" in in_child(lambda: pipeline.at("small"))


def towers() -> tuple[Manifest, dict[str, bytes]]:
    """Return a bundle whose two encoders are one file."""
    values, feature = TensorSpec(name="values", shape=(1, 4)), TensorSpec(name="feature", shape=(1, 3))
    outputs = (StageOutput(tensor=feature),)
    encoders = [
        StageSpec(
            name=f"{name}_encoder",
            role="encoder",
            modality=name,
            inputs=(StageInput(tensor=values, source=Source(kind="modality", owner=name, tensor="values")),),
            outputs=outputs,
        )
        for name in "ab"
    ]
    features = tuple(
        StageInput(
            tensor=msgspec.structs.replace(feature, name=name),
            source=Source(kind="stage", owner=f"{name}_encoder", tensor="feature"),
        )
        for name in "ab"
    )
    result = StageOutput(tensor=TensorSpec(name="logits", shape=(1, 3)), kind="result")
    fusion = StageSpec(name="fusion", role="fusion", inputs=features, outputs=(result,))
    weight = {"weight": np.arange(12, dtype=np.float32).reshape(4, 3)}
    shared = tiny._onnx_file(encoders[0], "feature = MatMul(values, weight)", weight)
    files = {"stages/shared.onnx": shared, "stages/fusion.onnx": tiny._onnx_file(fusion, "logits = Sub(a, b)", {})}

    def candidate(stage: StageSpec, file: str) -> Candidate:
        return msgspec.structs.replace(
            tiny.candidates()[0],
            id=f"{stage.name}.float",
            stage=stage.name,
            scheme="float",
            file=file,
            sha256=hashlib.sha256(files[file]).hexdigest(),
            size_bytes=len(files[file]),
            inputs=tiny._bindings(stage.inputs),
            outputs=tiny._bindings(stage.outputs),
            tolerance=Tolerance(),
        )

    candidates = (*(candidate(s, "stages/shared.onnx") for s in encoders), candidate(fusion, "stages/fusion.onnx"))
    rung = msgspec.structs.replace(
        tiny.manifest().rungs[0],
        candidates={candidate.stage: candidate.id for candidate in candidates},
        accuracy={},
        drop_ci95={},
    )
    modalities = tuple(tensor(name, shape=(1, 4)) for name in "ab")
    manifest = msgspec.structs.replace(
        tiny.manifest(),
        model=msgspec.structs.replace(tiny.spec(), modalities=modalities),
        stages=(*encoders, fusion),
        candidates=candidates,
        rungs=(rung,),
        golden=(),
    )
    return manifest, files


def test_a_file_that_two_stages_share_is_opened_once(tmp_path: Path, opened_files: list[int]) -> None:
    write_bundle(tmp_path / "towers", *towers())
    with edgefuse.load(tmp_path / "towers") as pipeline:
        assert len(opened_files) == 2
        near, far = np.zeros((1, 4), np.float32), np.ones((1, 4), np.float32)
        assert logits(pipeline, {"a": far, "b": near}).tolist() == [[18, 22, 26]]
        assert logits(pipeline, {"a": near, "b": far}).tolist() == [[-18, -22, -26]]
        assert (pipeline.cache.hits, pipeline.cache.misses) == (2, 2), "one cache, as they are one function"


@pytest.mark.parametrize("cache", [False, True])
def test_nothing_is_lost_while_rungs_change_and_bundles_are_loaded(archive: Path, tiny_raw: Raw, cache: bool) -> None:
    right = []
    for rung in ("float", "small"):
        with edgefuse.load(archive, rung=rung) as alone:
            right.append(logits(alone, tiny_raw))
    before = counted()
    pipeline = edgefuse.load(archive, cache=cache)
    holder = Holder(pipeline)
    callers = Callers(holder, pipeline.preprocess(**tiny_raw), right)
    del pipeline
    with callers.calling():
        for rung in islice(cycle(("small", "float")), SWAPS):
            holder.swap(rung)
        for _ in range(LOADS):
            edgefuse.load(archive, cache=cache).close()
    assert not callers.lost
    assert callers.answered
    holder.pipeline.close()
    assert max(counted(before)) <= 0  # what tests before left behind may end meanwhile


def test_a_batch_answers_as_single_calls_do(load_tiny: Load, tiny_raw: Raw) -> None:
    items = [tiny_raw, {"text": "go"}, tiny_raw | {"image": None}, {"text": "not go"}, tiny_raw]
    for rung in ("float", "small"):
        with load_tiny(rung=rung) as pipeline, load_tiny(rung=rung, cache=False) as single:
            answers = pipeline.batch(items)
            assert len(answers) == len(items)
            for answer, item in zip(answers, items, strict=True):
                np.testing.assert_array_equal(np.asarray(answer.outputs["logits"]), logits(single, item))
                assert answer.label in ("stop", "go", "wait")
            assert pipeline.batch([]) == []


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({}, "item 2: no modality is present: got nothing"),
        ({"txt": "go"}, "item 2: this model has no modality 'txt'"),
        ({"text": 5}, "item 2: 'text' is not text"),
        ("go", "item 2: an item of a batch is no mapping from modalities to inputs: got str, expected one mapping"),
        ({1: "go"}, "item 2: an item of a batch is no mapping from modalities to inputs: got dict"),
    ],
)
def test_a_bad_item_is_named_before_anything_runs(load_tiny: Load, wrong: Any, message: str) -> None:
    with load_tiny() as pipeline:
        with pytest.raises(InputError) as caught:
            pipeline.batch([{"text": "go"}, {"text": "stop"}, wrong, {"text": "wait"}])
        assert str(caught.value).startswith(message)
        assert pipeline.cache.misses == 0


def test_one_mapping_is_no_batch(load_tiny: Load, tiny_raw: Raw) -> None:
    with (
        load_tiny() as pipeline,
        pytest.raises(InputError, match=r"^item 0: .*no mapping.* got str"),
    ):
        pipeline.batch(tiny_raw)  # type: ignore[arg-type]


def test_what_fails_while_a_batch_runs_is_numbered(load_tiny: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    with load_tiny() as pipeline:
        real, calls = pipeline.infer, []

        def failing(inputs: Any) -> Any:
            calls.append(inputs)
            if len(calls) == 2:
                raise BackendError("ONNX Runtime cannot run a stage", got="a fault")
            return real(inputs)

        monkeypatch.setattr(pipeline, "infer", failing)
        with pytest.raises(BackendError) as caught:
            pipeline.batch([{"text": "go"}] * 3)
        assert str(caught.value) == "item 1: ONNX Runtime cannot run a stage: got a fault."


def test_a_closed_pipeline_runs_no_batch(load_tiny: Load) -> None:
    pipeline = load_tiny()
    pipeline.close()
    with pytest.raises(InputError, match="item 0: this pipeline is closed"):
        pipeline.batch([{"text": "go"}])
