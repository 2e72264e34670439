"""How connections are read and ended where a client, the system or the moment is odd."""

from __future__ import annotations

import fcntl
import json
import logging
import socket
import ssl
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from cheroot.connections import ConnectionManager

Serving = Callable[..., Any]
HEAD = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
ASK = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


def test_an_answer_after_the_end_is_not_sent_without_tls(
    serving: Serving, tmp_path: Path, motion: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
    subprocess.run([*command.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True)
    client, shut = serving(tls=(certificate, key)), threading.Event()
    pool = client.service._server.requests
    force = pool._force_close

    def forced(conn: Any) -> None:
        force(conn)
        if conn is not None:
            shut.set()

    monkeypatch.setattr(pool, "_force_close", forced)  # of a thread that answers for longer than the end waits
    context = ssl.create_default_context(cafile=str(certificate))
    context.check_hostname = False
    body = json.dumps(motion).encode()
    with (
        client.busy() as free,
        socket.create_connection(client.address, timeout=60) as connection,
        context.wrap_socket(connection) as peer,
    ):
        peer.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        while client.queue.waiting < 1:
            time.sleep(0.01)
        closing = threading.Thread(target=client.service.close, args=(60,))
        closing.start()
        assert shut.wait(60)
        free.set()
        closing.join()
        assert peer.recv(15) == b"HTTP/1.1 200 OK"  # what comes without TLS is an error of it


@pytest.mark.parametrize("target", [b"//[", b"http://[/", b"//[x]/"])
def test_a_target_that_is_none_is_no_error_of_ours(
    serving: Serving, target: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    answer = serving().send(b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n" % target)
    assert answer[9:12] == b"400", answer
    assert not [one for one in caplog.records if one.levelno >= logging.WARNING]


def _knows(client: Any, peer: socket.socket) -> bool:
    """Tell whether a service has seen a connection."""
    return any(one.remote_port == peer.getsockname()[1] and one.seen for one in list(client.service._server._open))


def test_who_asks_nothing_is_answered_nothing(serving: Serving, motion: dict[str, Any]) -> None:
    """Also where whole requests that wait for a thread take all memory that there is for those that come."""
    client = serving(depth=8, threads=1, body_bytes=1000, bodies_bytes=1000)
    server, body = client.service._server, json.dumps(motion).encode().ljust(900)
    request = HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body
    with ExitStack() as stack, client.busy() as free:
        peers = [stack.enter_context(socket.create_connection(client.address, timeout=60)) for _ in range(3)]
        for peer in peers:
            peer.sendall(request)
        while server.requests._queue.qsize() < 2:
            time.sleep(0.01)
        silent = stack.enter_context(socket.create_connection(client.address, timeout=60))
        while not _knows(client, silent):
            time.sleep(0.01)
        free.set()
        assert [peer.recv(15) for peer in peers] == [b"HTTP/1.1 200 OK"] * 3
        silent.sendall(ASK)
        assert silent.recv(15) == b"HTTP/1.1 200 OK"


def test_an_old_client_is_not_told_to_go_on(serving: Serving, motion: dict[str, Any]) -> None:
    body = json.dumps(motion).encode()
    head = HEAD.replace(b"HTTP/1.1", b"HTTP/1.0") + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body)
    with socket.create_connection(serving().address, timeout=60) as peer:
        peer.sendall(head)
        time.sleep(0.3)
        peer.sendall(body)
        assert peer.recv(15) == b"HTTP/1.1 200 OK"


@pytest.mark.parametrize("value", [b"Close", b"close, TE"])
def test_who_wants_the_connection_closed_gets_it_so(serving: Serving, value: bytes) -> None:
    client = serving(idle_s=60)
    with socket.create_connection(client.address, timeout=30) as peer:
        peer.sendall(ASK.replace(b"\r\n\r\n", b"\r\nConnection: " + value + b"\r\n\r\n"))
        with peer.makefile("rb") as answer:
            assert answer.read().startswith(b"HTTP/1.1 200 OK")


def test_the_end_comes_though_a_connection_cannot_be_accepted(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = serving()
    watched = client.service._server._connections
    with socket.create_connection(client.address, timeout=30) as peer:
        while not watched.waiting:
            time.sleep(0.01)
        peer.sendall(b"")

        def broken(_: object) -> None:
            raise OSError(24, "Too many open files")

        monkeypatch.setattr(watched, "_from_server_socket", broken)
        pool = client.service._server.requests
        threads = list(pool._threads)
        assert client.service.close(30)
        assert not [one for one in threads if one.is_alive()]
        assert client.service._server.socket is None


@pytest.mark.skipif(not hasattr(termios, "TIOCOUTQ"), reason="the system does not tell what has arrived")
def test_a_large_request_that_has_come_is_answered_at_the_end(
    serving: Serving, motion: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    client, stop = serving(threads=2), ConnectionManager.stop
    body = json.dumps(motion).encode().ljust(40_000)
    with ExitStack() as stack:
        peers: list[socket.socket] = []

        def stopped(watched: ConnectionManager) -> None:
            stop(watched)
            peers.append(stack.enter_context(socket.create_connection(client.address, timeout=30)))
            peers[0].sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            while int.from_bytes(fcntl.ioctl(peers[0], termios.TIOCOUTQ, bytes(4)), sys.byteorder):
                time.sleep(0.001)

        monkeypatch.setattr(ConnectionManager, "stop", stopped)
        assert client.service.close(30)
        assert peers[0].recv(15) == b"HTTP/1.1 200 OK"
