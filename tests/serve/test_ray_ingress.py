"""What stands in front of the replicas of Ray Serve: what is admitted, how it is read, and what is told; no cluster."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response

from edgefuse.bundle.reader import open_bundle
from edgefuse.serve.ray import ingress
from edgefuse.serve.ray.ingress import Ingress
from edgefuse.serve.ray.options import Options
from edgefuse.serve.ray.replica import Answered, Asked, Replica
from tests.serve.conftest import Client

BODY = json.dumps({"inputs": {"motion": [[[0.5, 0.25, -1.0]] * 3], "text": "please stop"}}).encode()
Answer = Callable[[list[Asked]], Awaitable[list[Answered]]]


class Handle:
    """Stands for a deployment: a function answers."""

    def __init__(self, answer: Answer) -> None:
        self.answer, self.remote = self, answer


def made(answer: Answer, **options: Any) -> Ingress:
    return Ingress(Handle(answer), Options(**options))  # type: ignore[arg-type]


def asked(method: str, target: bytes, *parts: bytes | None, host: str = "localhost") -> Request:
    """Return a request as uvicorn gives it; a part that is None is never sent."""
    raw, _, query = target.partition(b"?")
    messages = [{"type": "http.request", "body": part, "more_body": True} for part in parts if part is not None]
    whole = None not in parts

    async def receive() -> MutableMapping[str, Any]:
        if messages:
            return messages.pop(0)
        if not whole:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": b"", "more_body": False}

    fields = [(b"host", host.encode()), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": method, "path": raw.decode("latin-1"), "raw_path": raw, "query_string": query}
    return Request(scope | {"headers": fields}, receive)


async def echo(requests: list[Asked]) -> list[Answered]:
    return [Answered(200, {"Content-Length": "7"}, one.path.encode("latin-1")) for one in requests]


def posted(*parts: bytes | None) -> Request:
    return asked("POST", b"/v1/predict", *parts)


def told(response: Response) -> str:
    message: str = json.loads(bytes(response.body))["error"]["message"]
    return message


PATHS = (
    ("POST", "/v1/predict", 200),
    ("POST", "/v1/%70redict", 200),
    ("POST", "/v1/%2570redict", 404),
    ("POST", "/v1%2Fpredict", 404),
    ("POST", "/v1/predict%3Fexplain=true", 404),
    ("POST", "//x/v1/predict", 404),
    ("POST", "/v1/predict?explain=true", 200),
    ("POST", "/v1/predict?explain=%ff", 400),
    ("GET", "/healthz%0A", 404),
    ("GET", "/%09healthz", 404),
    ("GET", "//[", 404),
    ("GET", "/healthz;x", 404),
    ("GET", "/page/%ff", 404),
    ("HEAD", "/v1/model", 200),
    ("OPTIONS", "/v1/predict", 405),
    ("PROPFIND", "/v1/predict", 405),
)


def test_a_path_is_read_as_the_http_service_reads_it(serving: Callable[..., Client], tiny_bundle: Path) -> None:
    """Once: a second decoding, or a second parser, would let through what a proxy in front has refused."""
    with open_bundle(tiny_bundle) as bundle:
        digest = bundle.digest
    client = serving()
    with closing(Replica(str(tiny_bundle), digest, Options())) as replica:
        for method, target, status in PATHS:
            ours = asyncio.run(made(replica.answer)(asked(method, target.encode("latin-1"), BODY)))
            theirs = client.send(
                f"{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n".encode("latin-1")
                + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(BODY)
                + BODY
            )
            head, _, body = theirs.partition(b"\r\n\r\n")
            there = int(head.split()[1])
            assert (ours.status_code, there) == (status, 400 if target.startswith("//") else status), target
            if method == "HEAD":
                assert b"\r\nContent-Length: " + ours.headers["content-length"].encode() in head
            elif there == status != 200:
                assert json.loads(bytes(ours.body)) == json.loads(body)


def test_what_waits_for_no_inference_is_answered_while_the_queue_is_full() -> None:
    """A service that is busy is alive: whoever watches it must not end it, and its page opens."""

    async def scenario() -> tuple[int, int, int]:
        gone = asyncio.Event()

        async def busy(requests: list[Asked]) -> list[Answered]:
            if requests[0].method == "POST":
                await gone.wait()
            return await echo(requests)

        front = made(busy, depth=3)
        waiting = [asyncio.ensure_future(front(posted(BODY))) for _ in range(3)]
        await asyncio.sleep(0)
        refused = await front(posted(BODY))
        alive = await front(asked("GET", b"/healthz"))
        gone.set()
        return refused.status_code, alive.status_code, sum([(await one).status_code for one in waiting])

    assert asyncio.run(scenario()) == (429, 200, 600)


def test_as_many_lookups_as_may_be() -> None:
    async def scenario() -> list[int]:
        gone = asyncio.Event()

        async def dead(requests: list[Asked]) -> list[Answered]:
            await gone.wait()
            return await echo(requests)

        front = made(dead)
        waiting = [asyncio.ensure_future(front(asked("GET", b"/v1/model"))) for _ in range(ingress.LOOKUPS)]
        await asyncio.sleep(0)
        statuses = [(await front(asked("GET", b"/v1/model"))).status_code]
        gone.set()
        await asyncio.gather(*waiting)
        return [*statuses, (await front(asked("GET", b"/v1/model"))).status_code]

    assert asyncio.run(scenario()) == [429, 200]


def test_clients_that_go_away_keep_no_place_and_no_memory() -> None:
    async def scenario() -> tuple[int, int, int]:
        async def never(requests: list[Asked]) -> list[Answered]:
            await asyncio.Event().wait()
            return []

        front = made(never, depth=4)
        waiting = [asyncio.ensure_future(front(posted(BODY, *rest))) for rest in ((), (), (None,), (None,))]
        while front._bytes < 4 * len(BODY):
            await asyncio.sleep(0)
        for one in waiting:
            one.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        front._replicas._begin()
        return front._held, front._bytes, len(front._replicas._waiting)

    assert asyncio.run(scenario()) == (0, 0, 0)


def test_all_bodies_together_have_a_limit() -> None:
    async def scenario() -> list[Response]:
        front = made(echo, body_bytes=100)
        slow = [asyncio.ensure_future(front(posted(b"a" * 100, None))) for _ in range(4)]
        while front._bytes < 400:
            await asyncio.sleep(0)
        answers = [await front(posted(b"a"))]
        for one in slow:
            one.cancel()
        await asyncio.gather(*slow, return_exceptions=True)
        return [*answers, await front(posted(b"a" * 100)), await front(posted(b"a" * 101))]

    more, right, large = asyncio.run(scenario())
    assert (more.status_code, right.status_code, large.status_code) == (429, 200, 413)
    assert told(more) == "This service reads as many bytes as it takes at a time."
    assert more.headers["retry-after"] == "1"


def test_who_sends_nothing_hears_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingress, "_READ_S", 0.01)
    assert asyncio.run(made(echo)(posted(b"{", None))).status_code == 408


def test_what_is_unexpected_is_logged_without_its_words(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(_: list[Asked]) -> list[Answered]:
        raise ValueError("the client's secret")

    with caplog.at_level(logging.ERROR):
        answer = asyncio.run(made(broken)(posted(BODY)))
    assert (answer.status_code, told(answer)) == (500, "An error of this service; its log says which.")
    assert "ValueError (test_ray_ingress.py:" in caplog.text
    assert "secret" not in caplog.text


def test_who_goes_away_while_sending_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    async def gone() -> MutableMapping[str, Any]:
        return {"type": "http.disconnect"}

    with caplog.at_level(logging.WARNING):
        request = posted()
        assert asyncio.run(made(echo)(Request(request.scope, gone))).status_code == 400
    assert not caplog.text


def test_what_does_not_come_in_time_is_told_to_come_again() -> None:
    async def never(_: list[Asked]) -> list[Answered]:
        await asyncio.Event().wait()
        return []

    answer = asyncio.run(made(never, answer_s=0.01)(posted(BODY)))
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
