"""Clients that read an answer slowly: an honest one has all of it, and one that only stays holds nothing for long."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgefuse.runtime.live import Live
from edgefuse.serve.http import wire
from edgefuse.serve.http.limits import Limits
from edgefuse.serve.http.service import HttpService
from edgefuse.serve.queue import Queue
from tests.serve.conftest import Client
from tests.serve.test_events import Generating

PAGE = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


class Slow:
    """Stands for a connection to a client that accepts a piece at a time, in a time of its own; each turn takes one."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, accepts_bytes: int, takes_s: float, turn_s: float = 0.0
    ) -> None:
        self._accepts_bytes, self.takes_s, self._turn_s = accepts_bytes, takes_s, turn_s
        self.now_s, self.accepted, self._timeout_s = 0.0, 0, 0.0
        monkeypatch.setattr(wire, "time", SimpleNamespace(monotonic=lambda: self.now_s))

    def settimeout(self, seconds: float) -> None:
        self._timeout_s = seconds

    def setblocking(self, blocking: bool) -> None:
        assert not blocking
        self._timeout_s = 0.0

    def send(self, data: memoryview) -> int:
        self.now_s += min(self.takes_s, self._timeout_s) + self._turn_s
        if self.takes_s > self._timeout_s:
            raise TimeoutError("timed out") if self._timeout_s else BlockingIOError
        count = min(len(data), self._accepts_bytes)
        self.accepted += count
        return count


def sent(client: Slow, size: int) -> int:
    return wire.Arrived(client, Limits()).send(bytes(size))  # type: ignore[arg-type]


def test_a_byte_from_time_to_time_is_not_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Slow(monkeypatch, accepts_bytes=1, takes_s=3.0)
    with pytest.raises(TimeoutError):
        sent(client, 1000)
    assert client.accepted == 1
    assert client.now_s == pytest.approx(Limits.write_s, abs=0.1)


def test_who_is_fast_at_first_may_not_be_slow_for_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Slow(monkeypatch, accepts_bytes=1 << 14, takes_s=0.0)
    arrived = wire.Arrived(client, Limits())  # type: ignore[arg-type]
    assert arrived.send(bytes(16 << 20)) == 16 << 20
    client.takes_s = 10.0
    with pytest.raises(TimeoutError):
        arrived.send(b"x")
    assert client.now_s == pytest.approx(Limits.write_s)


def test_a_slow_phone_has_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """12 kB a second, in pieces, and for as long as it takes."""
    client = Slow(monkeypatch, accepts_bytes=12_000, takes_s=1.0)
    assert sent(client, 1_000_000) == 1_000_000
    assert client.now_s == pytest.approx(1_000_000 / 12_000, abs=1)


def test_who_makes_an_answer_may_be_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """So may a machine: that a thread waits for its turn is not the client's fault."""
    client = Slow(monkeypatch, accepts_bytes=100, takes_s=0.0, turn_s=0.2)
    arrived = wire.Arrived(client, Limits())  # type: ignore[arg-type]
    for _ in range(100):
        client.now_s += 20.0
        assert arrived.send(b"data: {}\n\n") == 10


def test_who_reads_events_too_slowly_ends_their_generation(tiny_bundle: Path) -> None:
    """It accepts a piece within each write's time, and the generation makes more than it reads."""
    body, over = json.dumps({"inputs": {"text": "stop"}}).encode(), threading.Event()
    head = b"POST /v1/generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"

    def read(peer: socket.socket) -> None:
        with suppress(OSError):
            while not over.wait(0.01) and peer.recv(4096):
                pass

    limits = Limits(threads=2, write_s=1.0, write_bytes_per_s=1 << 30)
    with (
        Live(tiny_bundle) as live,
        closing(Queue(source := Generating(live), 2)) as queue,
        HttpService("127.0.0.1:0", queue, source, limits) as service,
        socket.create_connection(Client(service, queue, live).address, timeout=60) as peer,
    ):
        peer.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        reading = threading.Thread(target=read, args=(peer,))
        reading.start()
        ended = source.generation.closed.wait(60)
        over.set()
        reading.join()
    assert ended


def test_little_of_an_answer_is_kept_by_the_system(serving: Callable[..., Client]) -> None:
    """Else a client that reads nothing would take megabytes, and one that reads slowly seem not to read at all."""
    client = serving()
    with socket.create_connection(client.address, timeout=30) as peer:
        while not (waiting := client.service._server._connections.waiting):
            time.sleep(0.001)
        (connection,) = waiting
        kept = connection.arrived.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        peer.sendall(PAGE)
        assert peer.recv(15) == b"HTTP/1.1 200 OK"
    assert kept <= 1 << 18


def test_large_answers_come_whole_over_tls(tmp_path: Path, serving: Callable[..., Client]) -> None:
    """Pieces are whole records, so that a slow client is not asked to accept all of an answer at once."""
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
    subprocess.run([*command.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True)
    client = serving(tls=(certificate, key))
    context = ssl.create_default_context(cafile=str(certificate))
    context.check_hostname = False
    large = bytes(range(256)) * 8192
    app = client.service._server.wsgi_app

    def answers(environ: dict[str, Any], start: Callable[..., object]) -> Any:
        if environ["PATH_INFO"] != "/large":
            return app(environ, start)
        start("200 OK", [("Content-Length", str(len(large)))])
        return [large]

    client.service._server.wsgi_app = answers
    with context.wrap_socket(socket.create_connection(client.address, timeout=60)) as peer:
        peer.sendall(PAGE.replace(b"GET / ", b"GET /large "))
        with peer.makefile("rb") as answer:
            assert answer.read().endswith(b"\r\n\r\n" + large)
