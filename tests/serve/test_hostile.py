"""Clients that do not keep to the protocol: each is refused, and the next honest one is answered."""

from __future__ import annotations

import fcntl
import http.client
import json
import logging
import os
import select
import selectors
import socket
import sys
import termios
import threading
import time
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest
from cheroot.connections import ConnectionManager

from edgefuse.serve.http.watched import _Selector

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
    body = json.dumps(motion).encode()
    whole = HEAD + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    assert client.send(whole).startswith(b"HTTP/1.1 200")  # in one piece: between two, this process may be slow itself


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


def test_what_came_unseen_is_answered_however_many_connections_there_are(
    serving: Serving, motion: dict[str, Any]
) -> None:
    client = serving(depth=1, threads=2, connections=4)
    server, body = client.service._server, json.dumps(motion).encode()
    request = HEAD + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    gate, asked, going_on = server.gate, threading.Event(), threading.Event()

    def waiting(begin: bytes) -> Any:
        asked.set()
        assert going_on.wait(30)
        return gate(begin)

    server.gate = waiting
    with ExitStack() as stack:
        peers = []
        for _ in range(40):  # all but the first come while nobody looks
            peers.append(stack.enter_context(socket.create_connection(client.address, timeout=30)))
            peers[-1].sendall(request)
            assert asked.wait(30)
        going_on.set()
        found = [_first(peer) for peer in peers]
    assert {one[9:12] for one in found} == {b"200", b"429"}, found
    assert client.ask("POST", "/v1/predict", motion).status == 200


def test_who_says_something_keeps_the_place_of_who_was_silent_for_longer(serving: Serving) -> None:
    client = serving(threads=2, connections=2)
    server, ask = client.service._server, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with ExitStack() as stack:
        speaks, silent = (stack.enter_context(socket.create_connection(client.address, timeout=30)) for _ in range(2))
        while len(server._connections.waiting) < 2:
            time.sleep(0.001)
        speaks.sendall(ask)  # it is older, so that what came has to be seen before one of them is ended
        newcomer = stack.enter_context(socket.create_connection(client.address, timeout=30))
        newcomer.sendall(ask)
        assert _first(speaks) == _first(newcomer) == b"HTTP/1.1 200 OK"
        assert _first(silent) == b""


def test_nothing_is_waited_for_after_a_request_that_came_whole_and_was_refused(
    serving: Serving, motion: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgefuse.serve.http.watched._LINGER_S", 600)
    client = serving()
    server, body = client.service._server, json.dumps(motion).encode()
    server.gate = lambda _: b"HTTP/1.1 429 Too Many Requests\r\n\r\n"
    for head, lingers in ((b"", 0), (b"Transfer-Encoding: chunked\r\n", 1)):
        with socket.create_connection(client.address, timeout=30) as peer:
            peer.sendall(HEAD + head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            assert peer.recv(1000).endswith(b"\r\n\r\n")
            assert peer.recv(1000) == b""
            assert len(server._open) == lingers


def test_half_requests_hold_no_thread(serving: Serving, motion: dict[str, Any]) -> None:
    client = serving(threads=2, read_s=120)
    whole = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    halves = (HEAD, HEAD + b"Content-Length: 1000\r\n\r\n{", b"G", b"\r\n", whole + HEAD)
    with ExitStack() as stack:
        for number in range(60):
            half = stack.enter_context(socket.create_connection(client.address, timeout=30))
            half.sendall(halves[number % len(halves)])
        for _ in range(3):
            assert client.ask("POST", "/v1/predict", motion).status == 200


def test_a_request_may_come_in_any_pieces(serving: Serving, motion: dict[str, Any]) -> None:
    client = serving(threads=2, read_s=120)
    body = json.dumps(motion).encode()
    request = HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body
    last = request.replace(b"Host:", b"Connection: close\r\nHost:")
    for size in (1, 7, 50):
        with socket.create_connection(client.address, timeout=30) as slow:
            slow.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            data = request + b"\r\n" + last
            for begin in range(0, len(data), size):
                slow.sendall(data[begin : begin + size])
                time.sleep(0.001)
            found = b""
            while part := slow.recv(65536):
                found += part
        assert found.count(b"HTTP/1.1 200 OK") == 2, found
    assert client.send(request + request + last).count(b"HTTP/1.1 200 OK") == 3


def test_who_waits_before_the_body_is_told_to_go_on_once(serving: Serving, motion: dict[str, Any]) -> None:
    client = serving(threads=2, read_s=30)
    body = json.dumps(motion).encode()
    head = HEAD + b"Expect: 100-continue\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
    with socket.create_connection(client.address, timeout=30) as waiting:
        waiting.sendall(head)
        assert waiting.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        waiting.sendall(body)
        assert waiting.recv(1000).startswith(b"HTTP/1.1 200 OK")
    assert client.send(head + body).startswith(b"HTTP/1.1 200 OK")  # it did not wait


def test_what_is_refused_in_any_case_is_refused_before_its_body(serving: Serving) -> None:
    client = serving(threads=2, read_s=120, body_bytes=4096, header_bytes=2048)
    for head, status in (
        (HEAD + b"Content-Length: 5000\r\n\r\n", b"413"),
        (HEAD + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n", b"400"),
        (HEAD + b"Content-Length: 4\r\nContent-Length: 5\r\n\r\n", b"400"),
        (HEAD + b"Content-Length : 4\r\n\r\n", b"400"),
        (HEAD + b"X: a\n", b"400"),
        (HEAD + b"X: " + b"a" * 3000, b"413"),
        (b"GET /" + b"a" * 3000, b"414"),
    ):
        assert client.send(head)[9:12] == status, head


def test_what_is_coming_is_bounded_together(serving: Serving, motion: dict[str, Any]) -> None:
    client = serving(threads=2, read_s=120, body_bytes=1_000_000, bodies_bytes=2_000_000)
    half = HEAD + b"Content-Length: 1000000\r\n\r\n" + b"x" * 900_000
    with ExitStack() as stack, ThreadPoolExecutor(4) as clients:
        peers = [stack.enter_context(socket.create_connection(client.address, timeout=30)) for _ in range(4)]
        for sent in [clients.submit(peer.sendall, half) for peer in peers]:
            sent.exception()  # whoever was refused may not get rid of all of it
        refused: list[socket.socket] = []
        while not refused:
            refused = select.select(peers, [], [], 30)[0]
            assert refused, "nobody was refused"
        assert refused[0].recv(1000).startswith(b"HTTP/1.1 429 Too Many Requests")
        assert client.ask("POST", "/v1/predict", motion).status == 200


def test_a_list_with_text_takes_no_more_memory_than_it_has(serving: Serving) -> None:
    client = serving()
    for one in ("", 1, 0.5):  # NumPy gives each of them the room of the longest text
        body = json.dumps({"inputs": {"motion": [one] * 5000 + ["x" * 5000]}}).encode()
        tracemalloc.start()
        try:
            answer = client.ask("POST", "/v1/predict", body)
            assert tracemalloc.get_traced_memory()[1] < 20e6
        finally:
            tracemalloc.stop()
        assert (answer.status, "'motion' is no array" in answer.json["error"]["message"]) == (400, True)


def test_what_was_taken_meanwhile_is_nobody_elses_and_its_number_may_be_used_again() -> None:
    selector, pairs = _Selector(), [socket.socketpair() for _ in range(3)]
    with ExitStack() as stack:
        for end in (end for pair in pairs for end in pair):
            stack.enter_context(end)
        stack.callback(selector.close)
        for connection, (watched, peer) in enumerate(pairs[:2]):
            peer.sendall(b"x")
            selector.register(watched.fileno(), selectors.EVENT_READ, data=connection)
        ready = selector.select(0)
        fileno, first = next(ready)
        other = pairs[1 - first][0]
        assert fileno == pairs[first][0].fileno()
        assert selector.take(other.fileno(), 1 - first)  # another thread's now, which closes it
        os.dup2(pairs[2][0].fileno(), other.fileno())
        selector.register(other.fileno(), selectors.EVENT_READ, data="new")
        assert list(ready) == []
        assert not selector.take(other.fileno(), 1 - first)
        assert selector.take(other.fileno(), "new")


@pytest.mark.skipif(not hasattr(termios, "TIOCOUTQ"), reason="the system does not tell what has arrived")
def test_what_has_come_when_a_service_stops_to_read_is_answered(
    serving: Serving, motion: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    client, stop = serving(threads=2), ConnectionManager.stop
    body = json.dumps(motion).encode()
    request = HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body
    with ExitStack() as stack:
        kept = stack.enter_context(socket.create_connection(client.address, timeout=30))
        kept.sendall(request)
        answer = http.client.HTTPResponse(kept, method="POST")
        answer.begin()
        assert (answer.status, bool(answer.read())) == (200, True)
        while not client.service._server._connections.waiting:
            time.sleep(0.001)
        peers = [kept]

        def stopped(watched: ConnectionManager) -> None:
            stop(watched)
            peers.extend(stack.enter_context(socket.create_connection(client.address, timeout=30)) for _ in range(2))
            for peer, data in zip(peers, (request, request, request[:-1]), strict=True):
                peer.sendall(data)
                while int.from_bytes(fcntl.ioctl(peer, termios.TIOCOUTQ, bytes(4)), sys.byteorder):
                    time.sleep(0.001)

        monkeypatch.setattr(ConnectionManager, "stop", stopped)
        assert client.service.close(30)
        assert [_first(peer) for peer in peers] == [b"HTTP/1.1 200 OK", b"HTTP/1.1 200 OK", b""]
        assert not client.service._server._open


def _first(peer: socket.socket) -> bytes:
    """Return the first bytes that come; none where the connection ends."""
    try:
        return peer.recv(15)
    except ConnectionResetError:
        return b""


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
