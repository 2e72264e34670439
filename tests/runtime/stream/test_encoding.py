"""A stream whose sound is encoded chunk by chunk."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import edgefuse
from edgefuse.compiler import export
from edgefuse.errors import InputError
from edgefuse.runtime.pipeline import Pipeline
from edgefuse.runtime.stream.feed import Feed
from edgefuse.runtime.stream.stream import Stream
from tests.runtime.stream.pushes import in_chunks
from tests.streaming import RATE_HZ, SAMPLES, STEPS, listening

Sound = npt.NDArray[np.float32]

HOP_S = 0.02


@pytest.fixture(scope="module")
def listens(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    """A pipeline whose sound streams: windows of 100 samples, steps of 24."""
    model, folder = listening(), tmp_path_factory.mktemp("listening")
    bundle = export(model, model.spec, "onnx", out=folder / "listening.edgefuse", cache=folder / "cache").bundle
    with edgefuse.load(bundle) as pipeline:
        yield pipeline


def sound(samples: int) -> Sound:
    return (0.3 * np.random.default_rng(0).standard_normal(samples)).clip(-1, 1).astype(np.float32)


def assert_near(found: object, expected: object) -> None:
    np.testing.assert_allclose(np.asarray(found, np.float32), np.asarray(expected, np.float32), atol=1e-4, rtol=1e-4)


def fresh(pipeline: Pipeline, window: Sound) -> object:
    """Return the answer of a call with a window of sound."""
    return pipeline(sound=window).outputs["logits"]


@pytest.mark.parametrize("lengths", [[7], [1, 60], [20]])
def test_it_is_encoded_as_it_comes(listens: Pipeline, lengths: list[int]) -> None:
    heard, values = listens.incremental("sound"), sound(600)
    with listens.stream(hop_s=HOP_S) as stream:
        for answer in in_chunks(stream, "sound", values, RATE_HZ, lengths):
            at = round(answer.time_s * RATE_HZ)
            if at < SAMPLES:
                assert_near(answer.outputs["logits"], fresh(listens, values[:at]))
                continue
            heard.push(values[heard.heard : at])
            assert_near(answer.outputs["logits"], listens(sound=heard.encoded).outputs["logits"])
            assert answer.ages["sound"] == pytest.approx(heard.behind / RATE_HZ, abs=1e-6)
        assert stream.predictions == 30


def test_only_steps_are_run_and_nothing_where_no_step_is_full(listens: Pipeline) -> None:
    values = sound(SAMPLES + 60)
    with listens.stream(hop_s=None) as stream:
        stream.push("right", np.ones((1, 5), np.float32), 0.1)
        stream.push("sound", values[:SAMPLES], 0.0)
        stream.predict()
        before = listens.cache.misses + listens.cache.hits
        for start in range(SAMPLES, SAMPLES + 60, 10):
            stream.push("sound", values[start : start + 10], start / RATE_HZ)
            stream.predict()
        assert listens.cache.misses + listens.cache.hits == before, "no frontend and no encoder of a whole window"


def test_it_begins_anew_after_a_gap_and_when_it_was_not_asked_for_long(listens: Pipeline) -> None:
    values, used = sound(900), 2 + STEPS * 24

    def asked(stream: Stream, start: int, end: int) -> object:
        for place in range(start, end, 20):
            stream.push("sound", values[place : place + 20], place / RATE_HZ)
        return stream.predict().outputs["logits"]

    with listens.stream(hop_s=None, feeds={"sound": Feed(reorder_s=0)}) as stream:
        asked(stream, 0, 100)
        assert_near(asked(stream, 300, 400), fresh(listens, values[300 : 300 + used]))
        assert_near(asked(stream, 400, 700), fresh(listens, values[600 : 600 + used]))


def test_it_can_be_a_window_each_time(listens: Pipeline) -> None:
    values = sound(300)
    with listens.stream(hop_s=HOP_S, feeds={"sound": Feed(incremental=False)}) as stream:
        for answer in in_chunks(stream, "sound", values, RATE_HZ, [20]):
            at = round(answer.time_s * RATE_HZ)
            assert_near(answer.outputs["logits"], fresh(listens, values[max(0, at - SAMPLES) : at]))


def test_what_it_added_is_told_of_what_is_encoded_already(listens: Pipeline) -> None:
    heard, right = listens.incremental("sound"), np.ones((1, 5), np.float32)
    heard.push(sound(SAMPLES))
    prediction = listens.explain(sound=heard.encoded, right=right)
    np.testing.assert_array_equal(
        prediction.outputs["logits"], listens(sound=heard.encoded, right=right).outputs["logits"]
    )
    assert prediction.contributions is not None
    assert "right" in prediction.contributions.each


def test_what_is_pushed_is_checked_as_what_a_call_is_given(listens: Pipeline) -> None:
    heard = listens.incremental("sound")
    wrong: list[Any] = [
        np.full(SAMPLES, 9999.0, np.float32),
        np.full(SAMPLES, np.inf, np.float32),
        np.zeros(SAMPLES, np.int32),
        np.zeros(0, np.float32),
        np.zeros((1, 2, SAMPLES), np.float32),
    ]
    for values in wrong:
        with pytest.raises(InputError) as of_call:
            listens(sound=values)
        with pytest.raises(InputError) as of_push:
            heard.push(values)
        assert str(of_push.value) == str(of_call.value)
    assert heard.heard == 0
    assert heard.push(np.zeros((1, SAMPLES), np.int16)) is not None


def test_only_a_name_is_a_modality_that_streams(listens: Pipeline) -> None:
    names: list[Any] = [["sound"], {}, None, 7, "smell"]
    for name in names:
        with pytest.raises(InputError, match=r"the modality '.*' is not encoded chunk by chunk at the rung"):
            listens.incremental(name)
