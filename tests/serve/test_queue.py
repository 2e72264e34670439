"""The queue in front of inference: bounded, in order, drained."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import wait
from contextlib import contextmanager
from typing import Any, cast

import pytest

from edgefuse.errors import InputError
from edgefuse.serve.queue import Draining, Expired, Full, Queue


class Source:
    """Has any object in the place of a pipeline."""

    pipeline: Any = "first"


@contextmanager
def queued(depth: int, **options: Any) -> Iterator[tuple[Queue, Source, threading.Event]]:
    """Give a queue whose one worker is held until the event is set."""
    source, free = Source(), threading.Event()
    queue = Queue(source, depth, **options)
    began = threading.Event()

    def hold(_: object) -> bool:
        began.set()
        return free.wait(30)

    try:
        queue.submit(hold)
        assert began.wait(30)
        yield queue, source, free
    finally:
        free.set()
        queue.close()


def test_what_is_over_the_depth_is_refused_at_once_and_a_freed_place_is_taken() -> None:
    with queued(3) as (queue, _, free):
        taken = [queue.submit(lambda pipeline: pipeline) for _ in range(2)]
        assert (queue.waiting, queue.running) == (2, 1)
        with pytest.raises(Full, match="the queue is full: got 3 requests") as caught:
            queue.submit(lambda pipeline: pipeline)
        assert caught.value.retry_after_s == pytest.approx(3 * queue.p50_s)
        free.set()
        assert [str(future.result(30)) for future in taken] == ["first", "first"]
        for _ in range(50):  # whoever has an answer finds a place
            fill = [queue.submit(lambda _: None) for _ in range(3)]
            wait(fill, 30)
        assert (queue.admitted, queue.refused) == (153, 1)


def test_a_place_is_held_for_a_request_that_is_read() -> None:
    with queued(2) as (queue, _, free):
        with queue.place() as place:
            with pytest.raises(Full, match="got 2 requests"):
                queue.check()
            taken = place.submit(lambda _: 1)
            with pytest.raises(Full):
                queue.check()
        free.set()
        assert taken.result(30) == 1
        for _ in range(3):
            with pytest.raises(ZeroDivisionError), queue.place():
                raise ZeroDivisionError  # what is wrong with itself gives its place back
        with queue.place() as place:
            assert queue.drain(30)
            with pytest.raises(Draining):
                place.submit(lambda _: 2)
        assert (queue.admitted, queue.waiting, queue._held) == (2, 0, 0)


def test_the_pipeline_is_asked_for_at_every_call() -> None:
    with queued(3) as (queue, source, free):
        answer = queue.submit(lambda pipeline: pipeline)
        source.pipeline = "second"
        free.set()
        assert answer.result(30) == cast(Any, "second")


def test_a_request_whose_caller_gave_up_is_skipped_and_not_kept() -> None:
    class Body:
        pass

    ran = []
    with queued(2) as (queue, _, free):
        body = Body()
        kept = weakref.ref(body)
        given_up = queue.submit(lambda _, body=body: ran.append(body))  # type: ignore[misc]
        del body
        assert given_up.cancel()
        last = queue.submit(lambda _: "last")  # it has the place of the one that was given up
        del given_up
        gc.collect()
        assert kept() is None
        free.set()
        assert last.result(30) == "last"
        assert not ran


def test_what_waited_past_its_deadline_gets_an_error() -> None:
    queue = Queue(Source(), 2, deadline_s=1e-9)
    try:
        with pytest.raises(Expired, match="waited for too long"):
            queue.submit(lambda _: "late").result(30)
        assert queue.expired == 1
    finally:
        queue.close()


class Slow(int):
    """A count that takes its time to grow, and so is lost where two count at once."""

    def __add__(self, other: int) -> Slow:
        time.sleep(0.05)
        return Slow(int(self) + other)


def test_what_several_workers_count_is_whole() -> None:
    queue = Queue(Source(), 8, workers=4, deadline_s=1e-9)
    queue.expired = Slow(0)
    try:
        late = [queue.submit(lambda _: "late") for _ in range(8)]
        assert {type(one.exception(30)) for one in late} == {Expired}
        assert queue.expired == 8
    finally:
        queue.close()


def test_an_error_is_the_callers_and_the_queue_goes_on() -> None:
    with queued(3) as (queue, _, free):
        free.set()
        bad = queue.submit(lambda _: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            bad.result(30)
        assert queue.submit(lambda _: 1).result(30) == 1


def test_draining_answers_what_was_admitted_and_takes_no_more() -> None:
    with queued(4) as (queue, _, free):
        taken = [queue.submit(lambda _: 1) for _ in range(3)]
        assert not queue.drain(0)
        with pytest.raises(Draining):
            queue.submit(lambda _: 1)
        free.set()
        assert queue.drain(30)
        assert all(future.done() for future in taken)


def test_closing_gives_those_that_wait_an_error() -> None:
    with queued(2) as (queue, _, free):
        left = queue.submit(lambda _: 1)
        closing = threading.Thread(target=queue.close)
        closing.start()
        with pytest.raises(Draining, match="ended before"):
            left.result(30)
        assert closing.is_alive()  # what runs has its answer first
        free.set()
        closing.join()


def test_a_queue_of_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="depth is too small"):
        Queue(Source(), 0)
    with pytest.raises(InputError, match="deadline is out of range"):
        Queue(Source(), 1, deadline_s=0)
