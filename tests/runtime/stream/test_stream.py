"""Streams: equal to calls, in order, bounded in age, told apart; and how they begin and end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgefuse.errors import InputError
from edgefuse.runtime.graph import Inputs
from edgefuse.runtime.pipeline import Pipeline
from edgefuse.runtime.stream.answer import Answer
from edgefuse.runtime.stream.feed import Feed
from edgefuse.runtime.stream.stream import Stream
from tests.runtime.test_forks import in_child

Array = npt.NDArray[Any]

MOTION = {"motion": Feed(rate_hz=100)}
RATE_HZ, SAMPLES = 16_000, 1_600


def motion(steps: int = 60) -> Array:
    return np.random.default_rng(1).normal(size=(1, steps, 3)).astype(np.float32)


def picture(seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(0, 256, (8, 8), dtype=np.uint8)


def sound(seconds: float, rate_hz: int = RATE_HZ) -> Array:
    """Return a sound that changes all the time."""
    times = np.arange(round(seconds * rate_hz)) / rate_hz
    return (0.5 * np.sin(2 * np.pi * (200 + 300 * times) * times) * (0.2 + times)).astype(np.float32)


def answers(stream: Stream) -> Iterator[Answer]:
    """Yield what is due."""
    while (answer := stream.poll()) is not None:
        yield answer


def assert_same(answer: Answer, pipeline: Pipeline, **raw: object) -> None:
    for name, value in pipeline(**raw).outputs.items():
        np.testing.assert_array_equal(answer.outputs[name], value)


def in_chunks(stream: Stream, modality: str, values: Array, rate_hz: int, lengths: list[int]) -> Iterator[Answer]:
    """Push chunks [n, ...] of steps with the times that they have, and yield what becomes due."""
    done = 0
    while done < len(values):
        for length in lengths:
            chunk = values[done : done + length]
            if len(chunk):
                stream.push(modality, chunk[None] if values.ndim > 1 else chunk, done / rate_hz)
            done += length
            yield from answers(stream)


@pytest.mark.parametrize("lengths", [[1], [2, 5, 1], [16, 20]])
def test_each_prediction_is_that_of_a_call_with_the_same_window(tiny: Pipeline, lengths: list[int]) -> None:
    values = motion()
    with tiny.stream(hop_s=0.02, backlog=10, feeds=MOTION) as stream:
        stream.push("image", picture(), 0.0)
        stream.push("text", "please stop now", 0.0)
        found = list(in_chunks(stream, "motion", values[0], 100, lengths))
        assert [round(answer.time_s * 100) for answer in found] == list(range(2, 61, 2))
        for answer in found:
            at = round(answer.time_s * 100)
            window = values[:, max(0, at - 5) : at]
            assert_same(answer, tiny, image=picture(), text="please stop now", motion=window)
            assert answer.ages == pytest.approx({"image": answer.time_s, "text": answer.time_s, "motion": 0}, abs=1e-6)
        assert stream.predictions == 30


def test_sound_is_predicted_from_its_last_window(hearing: Pipeline) -> None:
    heard = sound(0.5)
    with hearing.stream(hop_s=0.05) as stream:
        found = list(in_chunks(stream, "sound", heard, RATE_HZ, [160, 700, 33]))
        assert len(found) == 10
        for answer in found:
            at = round(answer.time_s * RATE_HZ)
            assert_same(answer, hearing, sound=heard[max(0, at - SAMPLES) : at])
    with hearing.stream(hop_s=0.05) as stream:
        pcm = (heard * 32767).astype(np.int16)
        *_, last = in_chunks(stream, "sound", pcm, RATE_HZ, [800])
        assert_same(last, hearing, sound=pcm[-SAMPLES:])


def test_sound_at_another_rate_is_resampled_as_one(hearing: Pipeline) -> None:
    soxr = pytest.importorskip("soxr")
    heard = sound(0.6, 44_100)
    whole = soxr.resample(heard, 44_100, RATE_HZ, quality="HQ")
    with hearing.stream(hop_s=0.05, feeds={"sound": Feed(rate_hz=44_100)}) as stream:
        found = list(in_chunks(stream, "sound", heard, 44_100, [441, 1000]))
        assert len(found) >= 10
        for answer in found:
            at = round(answer.time_s * RATE_HZ)
            expected = hearing(sound=whole[max(0, at - SAMPLES) : at])
            assert answer.scores == pytest.approx(expected.scores, abs=1e-5)


def test_what_comes_out_of_order_is_put_in_order_and_what_was_lost_is_silence(hearing: Pipeline) -> None:
    heard = sound(0.3)
    parts = {start: heard[start : start + 480] for start in range(0, len(heard), 480)}
    with hearing.stream(hop_s=None) as stream:
        for start in (0, 960, 480, 1440, 1920, 1920, 2880, 3360, 3840, 4320, 2400):
            stream.push("sound", parts[start], start / RATE_HZ)
        answer = stream.predict()
        counts = stream.counts["sound"]
        lost = heard.copy()
        lost[2400:2880] = 0
        assert (counts.used, counts.dropped, counts.late, counts.duplicates) == (4, 7, 0, 1), "the window holds four"
        assert_same(answer, hearing, sound=heard[4800 - SAMPLES : 4800])
    with hearing.stream(hop_s=None, feeds={"sound": Feed(reorder_s=0.05)}) as stream:
        for start in (0, 480, 960, 1440, 1920, 2880, 3360, 3840, 2400):
            stream.push("sound", parts[start], start / RATE_HZ)
        assert stream.counts["sound"].late == 1
        assert stream.counts["sound"].lost_s == pytest.approx(0.03)
        assert_same(stream.predict(), hearing, sound=lost[4320 - SAMPLES : 4320])


def test_a_modality_that_is_too_old_is_absent(tiny: Pipeline) -> None:
    feeds = {"image": Feed(max_age_s=0.3), "motion": Feed(rate_hz=100, max_age_s=0.1)}
    values = motion(5)
    with tiny.stream(hop_s=None, feeds=feeds) as stream:
        stream.push("image", picture(), 1.0)
        stream.push("motion", values, 1.0)
        stream.push("text", "go", 1.0)
        answer = stream.predict(1.1)
        assert answer.ages == pytest.approx({"image": 0.1, "text": 0.1, "motion": 0.05})
        assert_same(stream.predict(1.25), tiny, image=picture(), text="go")
        assert_same(stream.predict(1.5), tiny, text="go")
        stream.push("image", picture(1), 2.0)
        stream.push("text", "stop", 2.5)
        assert set(stream.predict().ages) == {"text"}
        assert (stream.counts["image"].used, stream.counts["image"].stale) == (1, 1)


def test_a_late_picture_is_dropped_and_an_early_one_waits(tiny: Pipeline) -> None:
    with tiny.stream(hop_s=None) as stream:
        assert stream.push("image", picture(0), 1.0)
        assert stream.push("image", picture(2), 1.2)
        assert stream.push("image", picture(1), 1.15)
        assert not stream.push("image", picture(3), 1.05)
        assert not stream.push("image", picture(1), 1.15)
        for time_s, seed in ((1.1, 0), (1.16, 1), (1.3, 2)):
            assert_same(stream.predict(time_s), tiny, image=picture(seed))
        counts = stream.counts["image"]
        assert (counts.pushed, counts.used, counts.late, counts.duplicates, counts.waiting) == (5, 3, 1, 1, 0)


def test_the_features_of_an_unchanged_picture_are_reused(tiny: Pipeline) -> None:
    def runs(stream: Stream, steps: int) -> int:
        before = tiny.cache.misses + tiny.cache.hits
        for _ in range(steps):
            stream.push("motion", motion(2), t := next(times))
            stream.predict(t + 0.02)
        return tiny.cache.misses + tiny.cache.hits - before

    times = iter(np.arange(1, 9, 0.02).tolist())
    with tiny.stream(hop_s=None, feeds=MOTION) as stream:
        stream.push("image", picture(), 1.0)
        assert runs(stream, 1) == 3, "image frontend, image and motion encoder"
        assert runs(stream, 5) == 5, "the motion encoder alone; nothing of the image is even compared"
        stream.push("image", picture(), 1.11)
        assert runs(stream, 1) == 3


def test_clocks_of_their_own_and_clocks_that_jump(tiny: Pipeline) -> None:
    now = [0.0]
    with Stream(Held(tiny), hop_s=None, feeds=MOTION, now=lambda: now[0]) as stream:
        stream.push("motion", motion(4), 50.0)
        stream.push("image", picture(), 7_000.0)
        assert stream.predict().ages == pytest.approx({"image": 0.0, "motion": 0.0})
        for step in range(20):
            now[0] += 0.04
            stream.push("motion", motion(4), (50.04 if step < 10 else 3.0) + 0.04 * step)
            stream.push("image", picture(step), 7_000.04 + 0.04 * step)
        answer = stream.predict()
        assert answer.ages == pytest.approx({"image": 0.0, "motion": 0.0}, abs=0.1)
        counts = stream.counts
        assert (counts["motion"].jumps, counts["motion"].late) == (1, 1)
        assert (counts["image"].jumps, counts["image"].late) == (0, 0)


@dataclass
class Held:
    pipeline: Pipeline


@dataclass(frozen=True)
class Down:
    rung: str = "small"
    without: tuple[str, ...] = ("text",)


class Once:
    """A ladder that goes down after the second prediction."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, float]] = []

    def observe(self, now_s: float, took_s: float, deadline_s: float, rung: str) -> None:
        assert now_s > 0
        assert rung
        self.seen.append((took_s, deadline_s))

    def decide(self, now_s: float) -> Down | None:
        return Down() if len(self.seen) == 2 else None


def test_a_ladder_is_told_and_obeyed(tiny: Pipeline) -> None:
    held, ladder = Held(tiny), Once()
    with Stream(held, 250, hop_s=None, ladder=ladder) as stream:
        stream.push("text", "go", 1.0)
        stream.push("image", picture(), 1.0)
        found = [stream.predict() for _ in range(3)]
        assert [answer.rung for answer in found] == ["float", "float", "small"]
        assert [set(answer.ages) for answer in found] == [{"image", "text"}, {"image", "text"}, {"image"}]
        assert_same(found[2], held.pipeline, image=picture())
        assert all(0 < took < 60 and deadline == 0.25 for took, deadline in ladder.seen)
        stream.push("text", "stop", 9.0)
        assert set(stream.predict(10.5).ages) == {"text"}, "it is left out only where something else is there"


class Still(Once):
    """A ladder that listens alone."""

    def decide(self, now_s: float) -> None:
        return None


class Clocked:
    """A pipeline of which each prediction takes a fiftieth of a second by a clock."""

    def __init__(self, pipeline: Pipeline, clock: list[float]) -> None:
        self._pipeline, self._clock = pipeline, clock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pipeline, name)

    def infer(self, inputs: Inputs) -> dict[str, Array]:
        self._clock[0] += 0.02
        return self._pipeline.infer(inputs)


def test_a_ladder_is_not_told_of_pauses_in_which_nobody_asks(tiny: Pipeline) -> None:
    now, ladder = [0.0], Still()
    held = Held(Clocked(tiny, now))  # type: ignore[arg-type] # which does what it does
    with Stream(held, 100, ladder=ladder, now=lambda: now[0]) as stream:
        for due_s in (1.0, 1.1, 1.2):
            now[0] = due_s
            stream.push("image", picture(), due_s)
        now[0] = 1.3  # whoever iterates was busy until now: of that, half of the deadline counts
        assert [answer.missed for answer in answers(stream)] == [True, True, True]
        assert [took_s for took_s, _ in ladder.seen] == pytest.approx([0.07, 0.02, 0.02])
        for due_s in (2.0, 2.01, 2.02):
            now[0] = due_s
            stream.push("image", picture(), due_s)
        list(answers(stream))  # the first was asked for after 0.02, the second waits for it, the third for both
        assert [took_s for took_s, _ in ladder.seen[3:]] == pytest.approx([0.04, 0.05, 0.06])


def test_a_ladder_is_told_where_work_on_each_answer_leaves_too_little_time(tiny: Pipeline) -> None:
    now, ladder = [0.0], Still()
    held = Held(Clocked(tiny, now))  # type: ignore[arg-type] # which does what it does
    with Stream(held, 100, ladder=ladder, now=lambda: now[0]) as stream:
        for due_s in (1.0, 1.05, 1.1, 1.15):
            now[0] = due_s
            stream.push("image", picture(), due_s)
        now[0] = 1.0
        for _ in range(4):
            assert stream.poll() is not None
            now[0] += 0.04  # which with 0.02 for the prediction is more than 0.05
        assert [took_s for took_s, _ in ladder.seen] == pytest.approx([0.02, 0.03, 0.04, 0.05])


def test_a_deadline_is_counted_from_when_a_prediction_was_due(tiny: Pipeline) -> None:
    now = [0.0]
    with Stream(Held(tiny), 100, now=lambda: now[0]) as stream:
        stream.push("text", "go", 0.0)
        now[0] = 0.05
        stream.push("text", "stop", 0.1)
        now[0] = 0.125
        first, second = answers(stream)
        assert (first.missed, first.latency_s) == (True, 0.125)
        assert not second.missed
        assert second.latency_s == pytest.approx(0.075)
        assert (stream.predictions, stream.missed) == (2, 1)


def test_a_slow_consumer_skips_and_a_time_without_data_is_none(hearing: Pipeline) -> None:
    with hearing.stream(backlog=3) as stream:
        for step in range(10):
            stream.push("picture", np.zeros((4, 4), np.uint8), step / 100)
        assert list(answers(stream)) == []
        assert (stream.skipped, stream.predictions) == (10, 0), "sound is required"
        assert stream.counts["picture"].used == 0, "no prediction saw one"
        with pytest.raises(InputError, match=r"the stream has nothing to predict from: expected data that are not too"):
            stream.predict()


def test_an_iterator_ends_after_what_is_due_and_at_once_when_closed(tiny: Pipeline) -> None:
    with tiny.stream(backlog=100) as stream:
        pushing = threading.Thread(target=lambda: [stream.push("text", "go", step / 10) for step in range(50)])
        pushing.start()
        taken = [next(stream) for _ in range(10)]
        pushing.join()
        stream.finish()
        assert not stream.push("text", "go", 9.0)
        taken += list(stream)
        assert [answer.time_s for answer in taken] == [step / 10 for step in range(50)]
    waiting = tiny.stream()
    ends = threading.Timer(0.05, waiting.close)
    ends.start()
    assert list(waiting) == []
    waiting.close()
    with pytest.raises(InputError, match=r"this stream is closed\. Fix: open another one with pipeline\.stream\(\)\."):
        waiting.predict()
    assert not waiting.push("text", "go")


def test_async_iterators(tiny: Pipeline) -> None:
    async def listen(stream: Stream) -> list[float]:
        return [answer.time_s async for answer in stream]

    async def both() -> tuple[list[float], list[float], set[str]]:
        with tiny.stream(backlog=100) as first, tiny.stream(backlog=100) as second:
            listening = [asyncio.create_task(listen(stream)) for stream in (first, second)]
            for step in range(20):
                first.push("text", "go", step / 10)
                await asyncio.to_thread(second.push, "text", "stop", step / 10)
            first.finish()
            second.finish()
            found = [await task for task in listening]
            names = {thread.name for thread in threading.enumerate() if thread.name.startswith("edgefuse-stream")}
            ended = asyncio.create_task(listen(third := tiny.stream()))
            await asyncio.sleep(0.01)
            third.close()
            assert await ended == []
            return found[0], found[1], names

    first, second, names = asyncio.run(both())
    assert first == second == [step / 10 for step in range(20)]
    assert len(names) <= 2


def test_who_gives_up_waiting_is_forgotten_and_closing_ends_who_waits(tiny: Pipeline) -> None:
    async def wait(stream: Stream) -> None:
        for _ in range(3):
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(anext(stream), 0.01)
        assert stream._sleepers == []
        stream.push("text", "go", 0.0)
        assert (await anext(stream)).time_s == 0.0

    with tiny.stream() as stream:
        asyncio.run(wait(stream))


def test_in_the_child_of_a_fork_it_only_says_so(tiny: Pipeline) -> None:
    with tiny.stream() as stream:
        stream.push("text", "go", 0.0)
        for action in (lambda: stream.push("text", "go", 1.0), stream.predict, stream.poll, lambda: next(stream)):
            assert "BackendError: this pipeline was opened before a fork" in in_child(action)
        assert stream.predict().time_s == 0.0


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


def test_without_times_the_clock_of_the_machine_counts(hearing: Pipeline) -> None:
    now = [5.0]
    with Stream(Held(hearing), hop_s=None, now=lambda: now[0]) as stream:
        stream.push("sound", sound(0.1))
        assert stream.predict().time_s == pytest.approx(5.0)


def test_queues_are_bounded_by_count_and_bytes(tiny: Pipeline) -> None:
    feeds = {"motion": Feed(rate_hz=100, max_items=4), "image": Feed(max_bytes=200, max_age_s=100)}
    with tiny.stream(hop_s=None, feeds=feeds) as stream:
        for step in range(50):
            stream.push("motion", motion(1), 0.02 * step)  # every other step is missing
            stream.push("image", picture(step), 0.02 * step)
        counts = stream.counts
        assert counts["image"].waiting == 3, "of 64 bytes each"
        assert counts["motion"].waiting <= 8, "four that wait for what is missing, four in the window"
        assert stream.size_bytes < 1_000
    assert all(one.waiting == 0 for one in stream.counts.values())


def test_what_waits_for_slow_hops_is_bounded_by_bytes(hearing: Pipeline) -> None:
    with hearing.stream(hop_s=1e6, feeds={"sound": Feed(max_bytes=1_000)}) as stream:
        assert stream.size_bytes == 2 * (4 * SAMPLES + 1_000), "twice the window and what waits"
