"""More than the model can do, peers that are slow or silent, and the end: what was taken is answered."""

from __future__ import annotations

import contextlib
import json
import math
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from edgefuse.runtime.live import Live
from edgefuse.runtime.pipeline import Pipeline
from edgefuse.serve.http.limits import Limits
from edgefuse.serve.http.service import Http, Settings
from edgefuse.serve.queue import Queue
from tests.serve.web import ask, connect, exchange, post, rest, serving

GIVEN = {"inputs": {"text": "please go"}}
GET = b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


class Gate:
    """Holds the calls of a model until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._open, infer = threading.Event(), Pipeline.infer

        def held(pipeline: Pipeline, inputs: Any) -> Any:
            assert self._open.wait(60)
            return infer(pipeline, inputs)

        monkeypatch.setattr(Pipeline, "infer", held)

    def open(self) -> None:
        self._open.set()


def until(true: Callable[[], bool]) -> None:
    for _ in range(6_000):
        if true():
            return
        time.sleep(0.01)
    raise AssertionError("it never came to it")


def test_more_than_may_wait_are_refused_at_once_and_the_rest_are_answered(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    with Live(tiny_bundle) as live:
        queue = Queue(live, depth=4, workers=1)
        with Http("127.0.0.1", 0, queue, live) as service, ThreadPoolExecutor(40) as pool:
            taken = [pool.submit(post, service.url, "/v1/predict", GIVEN) for _ in range(4)]
            until(lambda: queue.admitted == 4)
            refused = [pool.submit(post, service.url, "/v1/predict", GIVEN).result() for _ in range(3)]
            refused += [
                one.result() for one in [pool.submit(post, service.url, "/v1/predict", GIVEN) for _ in range(30)]
            ]
            assert {one.status for one in refused} == {429}
            assert all(one.headers["retry-after"].isdigit() and int(one.headers["retry-after"]) >= 1 for one in refused)
            assert all(one.json["error"]["code"] == "too_many_requests" for one in refused)
            assert ask(service.url, "GET", "/healthz").status == 200  # which needs no model
            gate.open()
            assert {one.result().status for one in taken} == {200}
        queue.close()


def test_the_end_answers_what_was_taken_and_refuses_the_rest(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    with Live(tiny_bundle) as live:
        queue = Queue(live, depth=8, workers=2)
        service = Http("127.0.0.1", 0, queue, live)
        with ThreadPoolExecutor(20) as pool, connect(service.url) as kept:
            taken: list[Future[Any]] = [pool.submit(post, service.url, "/v1/predict", GIVEN) for _ in range(8)]
            until(lambda: queue.admitted == 8)
            ending = pool.submit(service.close, 60.0)
            until(lambda: queue.draining)
            kept.sendall(GET)
            assert rest(kept).startswith(b"HTTP/1.1 503 ")
            late = post(service.url, "/v1/predict", GIVEN)
            assert (late.status, late.json["error"]["code"]) == (503, "service_unavailable")
            assert int(late.headers["retry-after"]) >= 1
            gate.open()
            assert Counter(one.result().status for one in taken) == {200: 8}
            ending.result()
        with pytest.raises(OSError):  # noqa: PT011 - of whichever kind
            ask(service.url, "GET", "/healthz")
        service.close()
        queue.close()


def test_what_takes_too_long_to_end_is_given_up(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)
    with Live(tiny_bundle) as live:
        queue = Queue(live, depth=8, workers=1)
        service = Http("127.0.0.1", 0, queue, live)
        with ThreadPoolExecutor(2) as pool:
            taken = pool.submit(post, service.url, "/v1/predict", GIVEN)
            until(lambda: queue.admitted == 1)
            service.close(1.0)  # while the call still runs
            assert taken.result().status == 503
            gate.open()
        queue.close()


def test_slow_and_silent_peers_hold_no_thread(tiny_bundle: Path) -> None:
    limits = Limits(connections=300)
    with serving(tiny_bundle, Settings(limits=limits), depth=2) as service, contextlib.ExitStack() as stack:
        for number in range(200):
            peer = stack.enter_context(connect(service.url))
            if number % 4 == 1:
                peer.sendall(b"POST /v1/predict HTTP/1.1\r\nHo")
            elif number % 4 == 2:
                peer.sendall(b"POST /v1/predict HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n{")
        for _ in range(3):
            assert post(service.url, "/v1/predict", GIVEN).status == 200


def test_one_more_connection_takes_the_place_of_the_one_that_was_silent_longest(tiny_bundle: Path) -> None:
    with (
        serving(tiny_bundle, Settings(limits=Limits(connections=8))) as service,
        contextlib.ExitStack() as stack,
    ):
        peers = [stack.enter_context(connect(service.url)) for _ in range(30)]
        assert post(service.url, "/v1/predict", GIVEN).status == 200
        assert peers[0].recv(1) == b""
        peers[-1].sendall(GET)
        assert rest(peers[-1]).startswith(b"HTTP/1.1 200 ")


def test_a_request_that_does_not_end_is_ended(tiny_bundle: Path) -> None:
    limits = Limits(header_s=0.5, body_s=0.5, idle_s=0.5)
    with serving(tiny_bundle, Settings(limits=limits)) as service:
        begun = b"POST /v1/predict HTTP/1.1\r\nHost: a\r\n"
        assert exchange(service.url, begun).startswith(b"HTTP/1.1 408 ")
        answer = exchange(service.url, begun + b"Content-Length: 10\r\n\r\n{")
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert (
            "the body of the request did not come in time"
            in json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["message"]
        )
        assert exchange(service.url, b"") == b""
        with connect(service.url) as peer:  # a byte now and then is no progress
            answer, deadline = b"", time.monotonic() + 60
            peer.settimeout(0.05)
            while not answer and time.monotonic() < deadline:
                with contextlib.suppress(TimeoutError, OSError):
                    peer.sendall(b"G")
                    answer = peer.recv(1024)
            assert answer.startswith(b"HTTP/1.1 408 ")


def test_what_is_coming_is_bounded_together(tiny_bundle: Path) -> None:
    limits = Limits(buffered_bytes=2_000_000, body_bytes=1_000_000)
    begun = b"POST /v1/predict HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 900_000
    with serving(tiny_bundle, Settings(limits=limits)) as service, contextlib.ExitStack() as stack:
        peers = [stack.enter_context(connect(service.url)) for _ in range(4)]
        for peer in peers:
            with contextlib.suppress(OSError):
                peer.sendall(begun)
        assert post(service.url, "/v1/predict", GIVEN).status == 200
        found = ask(service.url, "GET", "/metrics").content.decode()
        assert 'edgefuse_http_requests_total{endpoint="none",status="429"}' in found


def test_an_answer_in_time_or_none(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)
    with serving(tiny_bundle, Settings(limits=Limits(answer_s=0.2))) as service:
        found = post(service.url, "/v1/predict", GIVEN)
        assert (found.status, "there was no answer in time" in found.sentence) == (503, True)
        gate.open()
        assert math.isfinite(float(found.headers["retry-after"]))
