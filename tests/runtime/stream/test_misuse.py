"""Streams that are closed, forked and swapped while they are used."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgefuse.errors import InputError
from edgefuse.runtime.pipeline import Pipeline
from edgefuse.runtime.stream.answer import Answer
from edgefuse.runtime.stream.feed import Feed
from edgefuse.runtime.stream.stream import Stream
from tests.runtime.stream.pushes import MOTION, Down, Held, Once, motion, picture, sound
from tests.runtime.test_forks import in_child


def test_closing_ends_who_waits_for_another_prediction_to_end(tiny: Pipeline) -> None:
    stream = tiny.stream()
    ends: list[list[Answer] | str] = []

    def listen(asked: str) -> None:
        try:
            ends.append([stream.predict()] if asked == "predict" else list(stream))
        except InputError as error:
            ends.append(str(error))

    waiting = [threading.Thread(target=listen, args=(asked,)) for asked in ("iterate", "predict")]
    with stream._predictor.lock:
        stream.push("text", "go", 0.0)
        for thread in waiting:
            thread.start()
        while stream._triggers:
            time.sleep(0.001)
        time.sleep(0.05)
        stream.close()
    for thread in waiting:
        thread.join()
    assert sorted(ends, key=str) == [[], "this stream is closed. Fix: open another one with pipeline.stream()."]


def test_a_child_that_was_forked_while_a_thread_used_the_stream_can_close_it(tiny: Pipeline) -> None:
    with tiny.stream() as stream:
        with stream._changed:  # as a push of another thread holds it
            assert in_child(stream.close) == "None"
            for action in (stream.finish, lambda: stream.counts, lambda: stream.size_bytes):
                assert "opened before a fork" in in_child(action)
        assert stream.push("text", "go", 0.0)


class Gone(Once):
    """A ladder of another bundle."""

    def decide(self, now_s: float) -> Down | None:
        return Down("gone", ("text",)) if len(self.seen) == 1 else None


def test_a_change_to_a_rung_that_is_not_there_costs_no_answer(tiny: Pipeline, caplog: pytest.LogCaptureFixture) -> None:
    held = Held(tiny)
    with caplog.at_level(logging.WARNING), Stream(held, hop_s=None, ladder=Gone()) as stream:
        stream.push("text", "go", 0.0)
        stream.push("image", picture(), 0.0)
        found = [stream.predict() for _ in range(2)]
        assert [answer.rung for answer in found] == ["float", "float"]
        assert [set(answer.ages) for answer in found] == 2 * [{"image", "text"}], "and it leaves nothing out"
    assert held.pipeline is tiny
    assert "the stream stays at the rung 'float': this bundle has no such rung: got 'gone'" in caplog.text


def test_who_chooses_another_rung_gets_what_a_ladder_left_out(tiny: Pipeline) -> None:
    held = Held(tiny)
    with Stream(held, hop_s=None, ladder=Once()) as stream:
        stream.push("text", "go", 0.0)
        stream.push("image", picture(), 0.0)
        found = [stream.predict() for _ in range(3)]
        held.pipeline = held.pipeline.at("float")
        found += [stream.predict() for _ in range(2)]
    assert [answer.rung for answer in found] == ["float", "float", "small", "float", "float"]
    both = {"image", "text"}
    assert [set(answer.ages) for answer in found] == [both, both, {"image"}, both, both]


def test_a_ladder_chooses_a_rung_of_the_bundle_that_has_come_meanwhile(load_tiny: Callable[..., Pipeline]) -> None:
    class Meanwhile(Once):
        def decide(self, now_s: float) -> Down | None:
            if len(self.seen) == 2:  # during that prediction
                held.pipeline = second
            return super().decide(now_s)

    with (
        load_tiny() as first,
        load_tiny() as second,
        Stream(held := Held(first), hop_s=None, ladder=Meanwhile()) as one,
    ):
        one.push("text", "go", 0.0)
        assert [one.predict().rung for _ in range(3)] == ["float", "float", "small"]
        assert held.pipeline._opened is second._opened


def test_a_loop_that_closes_at_that_moment_costs_a_pusher_nothing(tiny: Pipeline) -> None:
    class Closing:
        def is_closed(self) -> bool:
            return False

        def call_soon_threadsafe(self, *_: object) -> None:
            raise RuntimeError("Event loop is closed")

    loop: Any = Closing()
    woken: asyncio.Future[None] = asyncio.Future(loop=asyncio.new_event_loop())
    with tiny.stream() as stream:
        stream._sleepers.append((loop, woken))
        assert stream.push("text", "go", 0.0)
        assert stream.poll() is not None
    woken.get_loop().close()


def test_who_gives_up_while_a_prediction_is_made_leaves_it_to_the_next(tiny: Pipeline) -> None:
    async def ask(stream: Stream) -> list[float]:
        stream.push("text", "go", 0.0)
        stream.push("text", "stop", 0.1)
        with stream._predictor.lock:  # as if it took long
            for _ in range(2):
                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(anext(stream), 0.05)
            stream.finish()
        return [answer.time_s async for answer in stream]

    with tiny.stream() as stream:
        assert asyncio.run(ask(stream)) == [0.0, 0.1]


def test_what_was_made_ahead_comes_out_of_any_iterator_errors_too(tiny: Pipeline) -> None:
    held = Held(tiny)

    async def give_up(stream: Stream) -> None:
        with stream._predictor.lock, pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(anext(stream), 0.05)

    with Stream(held) as stream:
        stream.push("text", "go", 0.0)
        asyncio.run(give_up(stream))
        stream.finish()
        assert [answer.time_s for answer in stream] == [0.0]
    with Stream(held) as stream:
        stream.push("text", "go", 0.0)
        held.pipeline = tiny.at(None)
        held.pipeline.close()
        asyncio.run(give_up(stream))
        with pytest.raises(InputError, match="this pipeline is closed"):
            next(stream)


def test_what_waits_behind_a_gap_is_predicted_from_when_nothing_more_comes(tiny: Pipeline) -> None:
    feeds = {"motion": Feed(rate_hz=100, reorder_s=1.0)}
    with tiny.stream(hop_s=0.02, feeds=feeds) as stream:
        stream.push("motion", motion(2), 0.0)
        stream.push("motion", motion(4), 0.04)
        assert stream.poll() is not None
        assert stream.poll() is None, "it waits for what is missing"
        stream.finish()
        stream.finish()
        assert [round(answer.time_s, 2) for answer in stream] == [0.04, 0.06, 0.08]
        assert stream.counts["motion"].used == 2
        assert stream.counts["motion"].lost_s == pytest.approx(0.02)


@pytest.mark.parametrize(("clock", "due"), [(None, [0.08]), ("motion", [0.08]), ("text", [])])
def test_without_a_hop_one_more_is_due_of_what_waited(tiny: Pipeline, clock: str | None, due: list[float]) -> None:
    feeds = {"motion": Feed(rate_hz=100, reorder_s=1.0)}
    with tiny.stream(clock=clock, feeds=feeds) as stream:
        stream.push("motion", motion(2), 0.0)
        stream.push("motion", motion(4), 0.04)
        while stream.poll() is not None:
            pass
        stream.finish()
        found = list(stream)
    assert [round(answer.time_s, 6) for answer in found] == due
    assert all(answer.ages["motion"] == 0.0 for answer in found)


def test_a_feed_of_a_picture_says_nothing_of_steps(tiny: Pipeline) -> None:
    wrong: list[tuple[str, dict[str, Any], str]] = [
        ("image", {"rate_hz": 30}, "'image' does not come in steps: got a feed with rate_hz, expected a feed without"),
        ("text", {"window_s": 1, "min_window_s": 1}, "'text' does not come in steps: got a feed with window_s and min"),
        (
            "motion",
            {"window_s": 1},
            "'motion' does not come in steps: got a feed with window_s, expected a feed without",
        ),
    ]
    for modality, given, sentence in wrong:
        with pytest.raises(InputError) as refusal:
            tiny.stream(feeds={modality: Feed(**given)})
        assert str(refusal.value).startswith(sentence)


def test_a_closed_stream_keeps_no_encoder(tiny: Pipeline) -> None:
    with tiny.stream(feeds=MOTION) as stream:
        series: Any = stream._intake.sources["motion"]
        series._encoding = object()
    assert series._encoding is None


def test_numbers_of_numpy_are_numbers(hearing: Pipeline) -> None:
    numbers: dict[str, Any] = {"max_items": np.int64(4), "max_age_s": np.float32(0.5)}
    feed = Feed(**numbers)
    assert (type(feed.max_items), type(feed.max_age_s)) == (int, float)
    settings: dict[str, Any] = {"deadline_ms": np.float32(50), "hop_s": np.float32(0), "backlog": np.int8(2)}
    with hearing.stream(feeds={"sound": feed}, **settings) as stream:
        stream.push("sound", sound(0.1), 0.0)
        assert stream.poll() is not None
    refused: list[Any] = [np.bool_(True), np.zeros(2), 1j]
    for wrong in refused:
        with pytest.raises(InputError, match="the stream's deadline_ms makes no sense"):
            hearing.stream(wrong)
        with pytest.raises(InputError, match="the feed's max_age_s makes no sense"):
            Feed(max_age_s=wrong)


def test_a_name_may_be_anything_and_is_refused(tiny: Pipeline) -> None:
    names: list[Any] = [np.zeros(2), ["text"], 7, None]
    with tiny.stream(feeds=MOTION) as stream:
        for name in names:
            with pytest.raises(InputError, match="this model has no modality"):
                stream.push(name, "go", 0.0)
