"""Clients that do not keep to the protocol: each is refused, and the next honest one is answered."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest

Serving = Callable[..., Any]
HEAD = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
SMUGGLED = {
    "both lengths": HEAD + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "length twice": HEAD + b"Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcde",
    "length as a list": HEAD + b"Content-Length: 4, 4\r\n\r\nabcd",
    "signed length": HEAD + b"Content-Length: +4\r\n\r\nabcd",
    "negative length": HEAD + b"Content-Length: -1\r\n\r\n",
    "length with an underscore": HEAD + b"Content-Length: 1_0\r\n\r\nabcdefghij",
    "folded": HEAD + b"X: a\r\n b\r\nContent-Length: 0\r\n\r\n",
    "space before the colon": HEAD + b"Content-Length : 4\r\n\r\nabcd",
    "bare LF": HEAD.replace(b"\r\n", b"\n") + b"Content-Length: 0\n\n",
    "bare CR": HEAD + b"X: a\rContent-Length: 4\r\n\r\nabcd",
    "NUL": HEAD + b"X: a\0b\r\n\r\n",
    "two hosts": HEAD + b"Host: localhost\r\n\r\n",
    "no host": b"GET /healthz HTTP/1.1\r\n\r\n",
    "no name": HEAD + b": x\r\n\r\n",
    "no request": b"\x16\x03\x01\x02\x00\x01\x00\x01\r\n\r\n",
    "fields without end": HEAD + b"".join(b"X%d: y\r\n" % number for number in range(80)) + b"\r\n",
    "chunked by an old client": b"POST /v1/predict HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked": HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "an unknown coding": HEAD + b"Transfer-Encoding: xchunked\r\n\r\n",
}


@pytest.mark.parametrize("name", SMUGGLED)
def test_what_can_be_read_in_two_ways_is_refused(serving: Serving, motion: dict[str, Any], name: str) -> None:
    client = serving(threads=2, read_s=5)
    after = b"GET /v1/model HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    answer = client.send(SMUGGLED[name] + after)
    assert answer.count(b"HTTP/1.") == 1, answer  # what stands behind it is no second request
    assert answer[9:12] in (b"400", b"411", b"501"), answer
    assert client.ask("POST", "/v1/predict", motion).status == 200


def test_slow_writers_and_half_requests_end_in_time(serving: Serving, motion: dict[str, Any]) -> None:
    client = serving(threads=2, read_s=0.5)
    began = time.monotonic()
    with socket.create_connection(client.address, timeout=30) as slow:
        slow.sendall(HEAD + b"Content-Length: 1000\r\n\r\n")
        ended = False
        while not ended and time.monotonic() - began < 25:
            try:
                slow.sendall(b" ")
            except OSError:
                ended = True
            time.sleep(0.05)
        assert ended
    assert client.send(HEAD + b"X: half a hea").startswith(b"HTTP/1.1 408")
    assert client.send(HEAD + b"Content-Length: 10\r\n\r\n{").startswith(b"HTTP/1.1 408")
    assert client.ask("POST", "/v1/predict", motion).status == 200


def test_idle_connections_hold_nobody_up_and_are_bounded(serving: Serving, motion: dict[str, Any]) -> None:
    client = serving(threads=2, connections=20)
    idle = [socket.create_connection(client.address, timeout=30) for _ in range(60)]
    try:
        assert client.ask("POST", "/v1/predict", motion).status == 200
        assert idle[0].recv(1) == b""  # the one that was idle for the longest had to go
        assert len(client.service._server._open) <= 21
    finally:
        for one in idle:
            one.close()


def test_nothing_of_a_request_is_logged(
    serving: Serving, motion: dict[str, Any], caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    client = serving()
    motion["inputs"]["text"] = "secretword stop"
    client.ask("POST", "/v1/predict?secretword=1", motion)
    client.ask("POST", "/v1/predict", {"inputs": {"image": "secretword"}})
    client.ask("GET", "/secretword", Authorization="secretword")
    client.send(b"secretword\r\n\r\n")
    client.queue._source = None  # a bug of ours
    assert client.ask("POST", "/v1/predict", motion).status == 500
    written = caplog.text + "".join(capfd.readouterr())
    assert "secretword" not in written
    assert "a request ended by an error: AttributeError" in written
