"""A model that streams, exported: its steps in files, and a stream over them."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

import edgefuse
from edgefuse.bundle.codec import encode
from edgefuse.bundle.manifest import Tolerance
from edgefuse.bundle.reader import open_bundle
from edgefuse.bundle.spec import Bucketed, Source, StageOutput, StageSpec
from edgefuse.bundle.validation import check
from edgefuse.cli import main
from edgefuse.compiler import ExportResult, export
from edgefuse.errors import BundleError, InputError
from edgefuse.measure.agreement import agreement
from edgefuse.runtime.incremental import Encoded
from tests.streaming import SAMPLES, STEPS, Listener, listening

Sound = npt.NDArray[np.float32]


def sound(samples: int, seed: int = 0) -> Sound:
    return (0.3 * np.random.default_rng(seed).standard_normal(samples)).clip(-1, 1).astype(np.float32)


@pytest.fixture(scope="module", params=["onnx", "tflite"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ExportResult:
    model, folder = listening(), tmp_path_factory.mktemp("listening")
    out = folder / "listening.edgefuse"
    return export(model, model.spec, request.param, out=out, cache=folder / "cache")


def test_the_bundle_says_how_the_sound_streams(exported: ExportResult) -> None:
    with open_bundle(exported.bundle) as bundle:
        manifest = bundle.manifest
    assert manifest.streamed
    assert manifest.schema == (2, 4)
    (one,) = manifest.streamed
    assert (one.modality, one.encoder) == ("sound", "sound_encoder")
    assert [stage.name for stage in one.stages] == ["sound_frontend_step", "sound_encoder_step"]
    assert list(one.rungs) == ["fixed"]
    assert {case.stage for case in manifest.golden} == {stage.name for stage in manifest.all_stages}


@pytest.mark.parametrize("chunk", [1, 7, 24, 98, 100])
def test_any_split_gives_what_a_whole_call_gives(exported: ExportResult, chunk: int) -> None:
    with edgefuse.load(exported.bundle) as pipeline:
        assert pipeline.streaming == ("sound",)
        heard = pipeline.incremental("sound")
        for seed in range(3):
            samples, right = sound(SAMPLES, seed), np.ones((1, 5), np.float32)
            for start in range(0, SAMPLES, chunk):
                heard.push(samples[start : start + chunk])
            assert heard.encoded is not None
            assert (heard.heard, heard.behind) == (SAMPLES, SAMPLES - 2 - STEPS * Listener.chunk)
            for others in ({}, {"right": right}):
                found, whole = (pipeline(sound=one, **others).outputs for one in (heard.encoded, samples))
                assert agreement([(whole, found)], Tolerance()).ok
            heard.reset()


def test_a_long_stream_is_the_same_in_any_split(exported: ExportResult) -> None:
    samples, rng = sound(20 * SAMPLES), np.random.default_rng(2)
    with edgefuse.load(exported.bundle) as pipeline:
        one, other = pipeline.incremental("sound"), pipeline.incremental("sound")
        given: list[Encoded] = []
        for start in range(0, len(samples), Listener.chunk):
            made = one.push(samples[start : start + Listener.chunk])
            given += [made] if made else []
        cuts = [0, *sorted(rng.integers(0, len(samples), 40).tolist()), len(samples)]
        for start, end in pairwise(cuts):
            other.push(samples[None, start:end])
        assert len(given) == (len(samples) - 2) // Listener.chunk - STEPS + 1
        assert other.encoded is not None
        for key, value in other.encoded.values.items():
            np.testing.assert_array_equal(value, given[-1].values[key])
        # The convolution of this encoder sees no more than two frames before a window.
        start = 2 + Listener.chunk * ((len(samples) - 2) // Listener.chunk) - (SAMPLES - 2) // 24 * 24 - 2
        fresh = pipeline.incremental("sound")
        fresh.push(samples[start:])
        assert fresh.encoded is not None
        found = agreement([(fresh.encoded.values, given[-1].values)], Tolerance())
        assert 0 < found.max_abs_error < 0.5


def test_what_cannot_be_pushed_is_refused_and_nothing_taken_in(exported: ExportResult) -> None:
    with edgefuse.load(exported.bundle) as pipeline:
        heard = pipeline.incremental("sound")
        odd = [np.zeros((1, 2, 5), np.float32), np.zeros(0, np.float32), np.zeros(5, np.int32), [0.0], None]
        bad = [*odd, np.full(5, np.nan, np.float32), np.full(5, 100.0, np.float32)]
        for values in bad:
            with pytest.raises(InputError):
                heard.push(values)  # type: ignore[arg-type] # that is what is tried
        assert heard.heard == 0
        heard.push((sound(SAMPLES) * 32768).astype(np.int16))
        assert heard.encoded is not None
        with pytest.raises(InputError, match="keep the last window"):
            pipeline.incremental("right")
        with pytest.raises(InputError):
            pipeline(right=heard.encoded)
    with pytest.raises(InputError, match="closed"):
        heard.push(sound(SAMPLES))


def test_the_verbs_take_the_bundle(exported: ExportResult, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(exported.bundle)]) == 0
    assert "sound_encoder_step" in capsys.readouterr().out
    assert main(["inspect", str(exported.bundle)]) == 0
    shown = capsys.readouterr().out
    assert "chunk by chunk" in shown
    assert "a whole window each time" in shown


def _outputs(stage: StageSpec, last: StageOutput) -> StageSpec:
    return msgspec.structs.replace(stage, outputs=(*stage.outputs[:-1], last))


def _inputs(stage: StageSpec, source: Source) -> StageSpec:
    first = msgspec.structs.replace(stage.inputs[0], source=source)
    return msgspec.structs.replace(stage, inputs=(first, *stage.inputs[1:]))


def test_a_manifest_that_lies_about_streams_is_refused(exported: ExportResult) -> None:
    with open_bundle(exported.bundle) as bundle:
        manifest = bundle.manifest
    assert manifest.streamed
    (one,) = manifest.streamed
    first, last = one.stages
    replace = msgspec.structs.replace
    tail, other = first.outputs[1], last.inputs[0].source
    strange, empty = "fusion.float", replace(tail.tensor, shape=(1, Bucketed(sizes=())))
    lies = {
        "for no stage of that modality": replace(one, encoder="right_encoder"),
        "unknown rung": replace(one, rungs={"other": one.rungs["fixed"]}),
        "one candidate for each stage": replace(one, rungs={"fixed": {}}),
        "not a candidate of that stage": replace(one, rungs={"fixed": dict.fromkeys(one.rungs["fixed"], strange)}),
        "stage of another modality": replace(one, stages=(replace(first, modality="right"), last)),
        "do not give what": replace(one, stages=(first,), rungs={}),
        "does not begin as it could": replace(one, stages=(_outputs(first, replace(tail, initial=other)), last)),
        "the shape of": replace(one, stages=(_outputs(first, replace(tail, tensor=empty)), last)),
        "take what no stream has": replace(one, stages=(first, _inputs(last, Source(kind="present")))),
        "comes from nowhere": replace(one, stages=(first, _inputs(last, Source(kind="stage", owner="a", tensor="b")))),
    }
    for said, lie in lies.items():
        with pytest.raises(BundleError, match=said):
            check(replace(manifest, streamed=(lie,)))
    with pytest.raises(BundleError, match="twice"):
        check(replace(manifest, streamed=(one, one)))


def test_a_bundle_without_streams_says_nothing_of_them(exported: ExportResult, tmp_path: Path) -> None:
    with open_bundle(exported.bundle) as bundle:
        manifest = msgspec.structs.replace(bundle.manifest, streamed=msgspec.UNSET)
    assert b"streamed" not in encode(manifest)
