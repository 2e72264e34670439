"""When the predictions of a stream are due, who waits for them, and how they end."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import numpy as np
import pytest

from edgefuse.errors import InputError
from edgefuse.runtime.graph import Inputs
from edgefuse.runtime.pipeline import Pipeline
from edgefuse.runtime.stream.stream import Stream
from tests.runtime.stream.pushes import Array, Held, Once, answers, assert_same, picture
from tests.runtime.test_forks import in_child


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
