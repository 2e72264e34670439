"""A bundle from its file to a prediction."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

import edgefuse
from edgefuse.bundle.manifest import Manifest
from edgefuse.bundle.reader import open_bundle
from edgefuse.bundle.spec import ModelSpec
from edgefuse.bundle.writer import write_bundle
from edgefuse.errors import BackendError, BundleError, InputError
from edgefuse.runtime.pipeline import Inputs, Pipeline
from edgefuse.runtime.processor import available_processors
from tests import overflow
from tests.attack.areas.arrays import odd_arrays

Load = Callable[..., Pipeline]
Raw = dict[str, Any]


def logits(pipeline: Pipeline, **raw: Any) -> npt.NDArray[np.float32]:
    return np.asarray(pipeline(**raw).outputs["logits"], np.float32)


def test_a_call_is_its_two_halves(load_tiny: Load, tiny_raw: Raw) -> None:
    with load_tiny() as pipeline:
        prediction = pipeline(**tiny_raw)
        inputs = pipeline.preprocess(**tiny_raw)
        np.testing.assert_array_equal(pipeline.infer(inputs)["logits"], prediction.outputs["logits"])
        assert isinstance(inputs, Inputs)
        assert inputs.present == ("image", "text", "motion")
        assert sorted(inputs.values) == ["image.pixels", "motion.length", "motion.values", "text.ids", "text.length"]
        assert prediction.label in ("stop", "go", "wait")


def test_tflite_predicts_what_onnx_predicts(
    load_tiny: Load, tflite_bundle: Path, tiny_raw: Raw, tiny_spec: ModelSpec
) -> None:
    with load_tiny() as onnx, edgefuse.load(tflite_bundle) as tflite:
        for subset in tiny_spec.subsets():
            raw = {name: tiny_raw[name] for name in subset}
            expected = logits(onnx, **raw)
            np.testing.assert_allclose(logits(tflite, **raw), expected, rtol=1e-4, atol=1e-5)


def test_every_subset_answers_differently_and_none_is_absence(
    load_tiny: Load, tiny_raw: Raw, tiny_spec: ModelSpec
) -> None:
    with load_tiny() as pipeline:
        answers = {
            subset: logits(pipeline, **{name: tiny_raw[name] for name in subset}).tobytes()
            for subset in tiny_spec.subsets()
        }
        assert len(set(answers.values())) == 7
        assert logits(pipeline, **tiny_raw | {"motion": None}).tobytes() == answers["image", "text"]


def test_nothing_present_is_refused(load_tiny: Load) -> None:
    with load_tiny() as pipeline, pytest.raises(InputError) as caught:
        pipeline()
    assert str(caught.value) == (
        "no modality is present: got nothing, expected at least one of image, text, motion. Fix: pass image=…."
    )


def test_an_unknown_keyword_gets_a_suggestion(load_tiny: Load, tiny_raw: Raw) -> None:
    with load_tiny() as pipeline, pytest.raises(InputError) as caught:
        pipeline(imge=tiny_raw["image"])
    assert str(caught.value) == (
        "this model has no modality 'imge': expected image or text or motion. Fix: did you mean image=…."
    )


def test_a_required_modality_that_is_absent_is_refused(
    tmp_path: Path, tiny_manifest: Manifest, tiny_contents: dict[str, bytes], tiny_raw: Raw
) -> None:
    modalities = tuple(msgspec.structs.replace(m, optional=m.name != "text") for m in tiny_manifest.model.modalities)
    spec = msgspec.structs.replace(tiny_manifest.model, modalities=modalities)
    write_bundle(tmp_path / "strict", msgspec.structs.replace(tiny_manifest, model=spec), tiny_contents)
    with edgefuse.load(tmp_path / "strict") as pipeline:
        with pytest.raises(InputError) as caught:
            pipeline(image=tiny_raw["image"])
        assert str(caught.value) == "the modality 'text' is required: got image, expected text. Fix: pass text=…."
        assert pipeline(text="go").label in ("stop", "go", "wait")


def test_rungs_differ(load_tiny: Load, tiny_raw: Raw) -> None:
    with load_tiny() as precise, load_tiny(rung="small") as small:
        assert (precise.rung.name, small.rung.name) == ("float", "small")
        a, b = (logits(p, **tiny_raw) for p in (precise, small))
        assert not np.array_equal(a, b)
        np.testing.assert_allclose(a, b, atol=0.1)


def test_an_unknown_rung_is_refused(load_tiny: Load) -> None:
    with pytest.raises(BundleError, match="no such rung: got 'tiny', expected float or small"):
        load_tiny(rung="tiny")


def test_an_unknown_backend_is_refused(load_tiny: Load) -> None:
    with pytest.raises(BackendError, match="for the backend 'onnx': got 'abacus', expected onnx or null"):
        load_tiny(backend="abacus")


@pytest.mark.parametrize("threads", [0, -1, 1.5, True, 5_000, 100_000, 1 << 70])
def test_a_wrong_number_of_threads_is_refused(load_tiny: Load, threads: Any) -> None:
    with pytest.raises(InputError, match=r"the number of threads does not fit this machine: got .*, expected 1"):
        load_tiny(threads=threads)


def test_the_null_backend_answers_zeros(load_tiny: Load, tiny_raw: Raw) -> None:
    with load_tiny(backend="null") as pipeline:
        assert logits(pipeline, **tiny_raw).tolist() == [[0, 0, 0]]


def test_threads_and_spinning_do_not_change_the_answer(load_tiny: Load, tiny_raw: Raw) -> None:
    with load_tiny() as one, load_tiny(threads=min(2, available_processors()), spinning=True) as two:
        np.testing.assert_allclose(logits(one, **tiny_raw), logits(two, **tiny_raw), rtol=1e-5, atol=1e-6)


def test_a_digest_pins_the_bundle(load_tiny: Load, tiny_bundle: Path) -> None:
    with open_bundle(tiny_bundle) as bundle:
        load_tiny(digest=bundle.digest).close()
        edgefuse.load(bundle, digest=bundle.digest).close()
        with pytest.raises(BundleError, match="not the one that was pinned"):
            edgefuse.load(bundle, digest="0" * 64)
    with pytest.raises(BundleError):
        load_tiny(digest="0" * 64)


def test_a_pipeline_outlives_its_file(tiny_bundle: Path, tiny_raw: Raw) -> None:
    import shutil

    pipeline = edgefuse.load(tiny_bundle)
    shutil.rmtree(tiny_bundle)
    assert pipeline(**tiny_raw).label in ("stop", "go", "wait")  # the tokenizer, too, was read


def test_a_closed_pipeline_says_so(load_tiny: Load, tiny_raw: Raw) -> None:
    pipeline = load_tiny()
    pipeline.close()
    pipeline.close()
    with pytest.raises(InputError, match=r"this pipeline is closed\. Fix: load the bundle again\."):
        pipeline(**tiny_raw)


def test_calls_from_several_threads_are_safe(load_tiny: Load, tiny_raw: Raw) -> None:
    pictures = [np.full((8, 8), shade, np.uint8) for shade in range(0, 250, 10)]
    with load_tiny() as pipeline, ThreadPoolExecutor(4) as pool:
        alone = [logits(pipeline, image=picture) for picture in pictures]
        together = list(pool.map(lambda picture: logits(pipeline, image=picture), pictures * 4))
    np.testing.assert_array_equal(together, alone * 4)


def test_features_of_an_unchanged_modality_are_reused(load_tiny: Load, tiny_raw: Raw) -> None:
    with load_tiny() as pipeline, load_tiny(cache=False) as uncached:
        pipeline(**tiny_raw)
        assert (pipeline.cache.hits, pipeline.cache.misses) == (0, 4)  # a frontend and three encoders
        changed = tiny_raw | {"text": "do not go"}
        answer = pipeline(**changed)
        assert (pipeline.cache.hits, pipeline.cache.misses) == (3, 5)
        np.testing.assert_array_equal(np.asarray(answer.outputs["logits"]), logits(uncached, **changed))
        assert (uncached.cache.hits, uncached.cache.misses) == (0, 0)


def test_an_array_changed_in_place_is_not_mistaken_for_the_old_one(load_tiny: Load) -> None:
    frame = np.zeros((1, 8, 8, 1), np.uint8)  # a camera's buffer
    with load_tiny() as pipeline:
        dark = logits(pipeline, image=frame)
        frame[:] = 255
        bright = logits(pipeline, image=frame)
        assert pipeline.cache.hits == 0
        assert not np.array_equal(dark, bright)


def test_an_answer_can_be_changed_without_harm(load_tiny: Load, tiny_raw: Raw) -> None:
    with load_tiny() as pipeline:
        first = logits(pipeline, **tiny_raw)
        kept = first.copy()
        first[:] = 0
        np.testing.assert_array_equal(logits(pipeline, **tiny_raw), kept)


TOO_LARGE = np.array([[[3e38, -3e38, 3e38], [3e38, 3e38, -3e38]]], np.float32)


@pytest.mark.parametrize("kind", sorted(overflow.OUTPUTS))
def test_values_that_overflow_are_marked_and_not_kept(tmp_path: Path, kind: str) -> None:
    write_bundle(tmp_path / kind, *overflow.bundle(kind))
    with edgefuse.load(tmp_path / kind) as pipeline:
        prediction = pipeline(motion=TOO_LARGE)
        assert not np.isfinite(prediction.outputs["logits"]).all()
        assert not prediction.finite
        for view in ("label", "values", "embedding"):
            with pytest.raises(InputError):
                getattr(prediction, view)
        pipeline(motion=TOO_LARGE)
        assert (pipeline.cache.hits, pipeline.cache.misses) == (0, 2)
        assert pipeline(motion=TOO_LARGE / np.float32(1e38)).finite


@pytest.mark.parametrize("length", [-5, 0, 7, 2**31 - 1, -(2**31)])
def test_a_length_that_cannot_be_is_refused(load_tiny: Load, tiny_raw: Raw, length: int) -> None:
    with load_tiny() as pipeline:
        inputs = pipeline.preprocess(**tiny_raw)
        wrong = dict(inputs.values) | {"text.length": np.array([length], np.int32)}
        with pytest.raises(InputError, match=f"the length of 'text' is out of range: got {length}, expected 1 to 6"):
            pipeline.infer(Inputs(wrong, inputs.present))
        pipeline.infer(Inputs(wrong, ("image",)))  # what is absent is not looked at


@pytest.mark.parametrize("layout", ["every second", "backwards", "Fortran", "misaligned", "read-only", "a subclass"])
def test_arrays_of_any_layout_give_the_same_answer(load_tiny: Load, tflite_bundle: Path, layout: str) -> None:
    made = odd_arrays()
    name = next(name for name in made if name.startswith("same") and layout.split()[-1] in name)
    for pipeline in (load_tiny(), edgefuse.load(tflite_bundle)):
        with pipeline:
            np.testing.assert_array_equal(
                logits(pipeline, motion=made[name]()), logits(pipeline, motion=made["same: read-only"]().copy())
            )
