"""Streams, and settings of streams, that are refused with a sentence."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgefuse.errors import InputError
from edgefuse.runtime.pipeline import Pipeline
from edgefuse.runtime.stream.feed import Feed
from tests.runtime.stream.pushes import MOTION, answers, assert_same, motion, sound

WRONG: list[tuple[str, object, str]] = [
    ("motion", np.full((1, 2, 3), np.nan, np.float32), "'motion.values' holds values that are not finite: got 6 of 6"),
    ("motion", np.zeros((1, 2, 3)), "'motion.values' has the wrong type: got float64, expected an array of float32"),
    ("motion", np.zeros((1, 2, 4), np.float32), "'motion.values' has the wrong shape: got [1, 2, 4]"),
    ("motion", np.zeros((1, 0, 3), np.float32), "'motion.values' has the wrong shape: got [1, 0, 3]"),
    ("image", np.zeros((8, 8), np.float32), "the picture 'image' has the wrong type: got float32"),
    ("text", 7, "'text' is not text: got int"),
    ("smell", 7, "this model has no modality 'smell': expected image or text or motion."),
]


@pytest.mark.parametrize(("modality", "chunk", "sentence"), WRONG)
def test_what_is_wrong_is_refused_with_a_sentence_and_the_stream_goes_on(
    tiny: Pipeline, modality: str, chunk: object, sentence: str
) -> None:
    with tiny.stream(feeds=MOTION) as stream:
        with pytest.raises(InputError) as refusal:
            stream.push(modality, chunk, 1.0)
        assert str(refusal.value).startswith(sentence)
        stream.push("motion", motion(3), 1.0)
        (answer,) = answers(stream)
        assert_same(answer, tiny, motion=motion(3))
        assert sum(counts.refused for counts in stream.counts.values()) == (modality != "smell")


def test_wrong_sound_and_wrong_times_are_refused(hearing: Pipeline) -> None:
    with hearing.stream() as stream:
        for chunk, sentence in (
            ("a.wav", "a chunk of 'sound' is not sound: got str, expected an array of samples."),
            (np.full(9, np.inf, np.float32), "the sound 'sound' holds values that are not finite: got 9 of 9"),
            (np.full(9, 9999.0, np.float32), "the sound 'sound' is not scaled: got a peak of 9999"),
            (np.zeros(0, np.float32), "the sound 'sound' is empty"),
        ):
            with pytest.raises(InputError) as refusal:
                stream.push("sound", chunk, 0.0)
            assert str(refusal.value).startswith(sentence)
        for time_s in (float("nan"), "noon", 1e308, 10**400, np.zeros(2)):
            with pytest.raises(InputError, match=r"the time of 'sound' makes no sense: got .*, expected seconds, a f"):
                stream.push("sound", sound(0.1), time_s)  # type: ignore[arg-type]
        assert stream.counts["sound"].refused == stream.counts["sound"].pushed == 9


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"deadline_ms": 0}, "the stream's deadline_ms makes no sense: got 0, expected a number above 0, up to 1e9."),
        ({"hop_s": -1}, "the stream's hop_s makes no sense: got -1, expected a number above 0, up to 1e9."),
        ({"hop_s": 1e-310}, "the stream's hop_s makes no sense: got 1e-310"),
        ({"backlog": 10**400}, "the stream's backlog makes no sense: got 1000"),
        ({"backlog": 1.5}, "the stream's backlog makes no sense: got 1.5, expected a whole number."),
        ({"feeds": {"sound": {"rate_hz": 8000}}}, "the stream's feeds make no sense: got {'sound': {'rate_hz': 8000}}"),
        ({"clock": "sun"}, "this model has no modality 'sun': expected sound or picture."),
        ({"feeds": {"smell": Feed()}}, "this model has no modality 'smell': expected sound or picture."),
        ({"feeds": {"sound": Feed(rate_hz=1e-9)}}, "the rate of 'sound' makes no sense: got 1e-09, expected 1000 to"),
        (
            {"feeds": {"sound": Feed(window_s=0.05, min_window_s=0.06)}},
            "the min_window_s of 'sound' is more than a window has: got 0.06 s, 960 steps, expected 0 to 800 steps.",
        ),
        ({"feeds": {"sound": Feed(window_s=1)}}, "the window of 'sound' does not fit the model: got 1 s, 16000 steps"),
    ],
)
def test_settings_that_do_not_fit(hearing: Pipeline, settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError) as refusal:
        hearing.stream(**settings)
    assert str(refusal.value).startswith(sentence)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"rate_hz": 0}, "the feed's rate_hz makes no sense: got 0, expected a number above 0."),
        ({"jitter_s": 1e308}, "the feed's jitter_s makes no sense: got 1e+308, expected a number from 0 on."),
        ({"max_age_s": float("nan")}, "the feed's max_age_s makes no sense: got nan"),
        ({"reorder_s": -1}, "the feed's reorder_s makes no sense: got -1, expected a number from 0 on."),
        ({"max_items": 2.5}, "the feed's max_items makes no sense: got 2.5, expected a number above 0."),
        ({"jump_s": 0.1}, "a feed that reorders further than its clock may jump: got reorder_s=0.1, jump_s=0.1"),
    ],
)
def test_feeds_that_make_no_sense(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError) as refusal:
        Feed(**settings)
    assert str(refusal.value).startswith(sentence)
