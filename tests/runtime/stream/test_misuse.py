"""Streams that are closed, forked and swapped while they are used."""

from __future__ import annotations

import logging
import threading
import time

import pytest

from edgefuse.errors import InputError
from edgefuse.runtime.pipeline import Pipeline
from edgefuse.runtime.stream.answer import Answer
from edgefuse.runtime.stream.stream import Stream
from tests.runtime.stream.test_stream import Down, Held, Once, picture
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
    with stream._predicting:
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
        assert [stream.predict().rung for _ in range(2)] == ["float", "float"]
    assert held.pipeline is tiny
    assert "the stream stays at the rung 'float': this bundle has no such rung: got 'gone'" in caplog.text
