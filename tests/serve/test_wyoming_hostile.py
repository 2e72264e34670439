"""Whatever comes over the wire: a sentence or a closed connection, a silent log, and an answer for the next."""

from __future__ import annotations

import gc
import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from wyoming.event import Event
from wyoming.info import Describe
from wyoming.intent import Recognize

from edgefuse.serve.wyoming.limits import Limits
from edgefuse.serve.wyoming.settings import Settings
from tests.serve.voice import Service, asked, intents, serving

SECRET = "the code is 4711"
LIMITS = Limits(linger_s=60, connections=8, connection_bytes=200_000)
QUICK = replace(LIMITS, event_s=0.3)
"""For whoever is too slow on purpose: others may be so, too, where this process has to wait."""


@pytest.fixture
def service(request: pytest.FixtureRequest, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Iterator[Service]:
    caplog.set_level(logging.DEBUG)
    settings = Settings(limits=getattr(request, "param", LIMITS))
    with serving(intents(tmp_path / "intents.edgefuse"), settings) as running:
        yield running
        assert any(answered(running) for _ in range(20))
    gc.collect()  # a task whose error nobody looked at tells of it when it is freed
    assert not [one for one in caplog.records if one.levelno >= logging.WARNING]
    assert SECRET not in caplog.text


def answered(service: Service) -> bool:
    """Tell whether an honest request is answered; by limits that are as tight as `QUICK`, it may be too slow."""
    with suppress(OSError, EOFError):
        return any(one.type == "intent" for one in asked(service.uri, Recognize("go").event()))
    return False


def connected(service: Service) -> socket.socket:
    host, _, port = service.uri.removeprefix("tcp://").rpartition(":")
    return socket.create_connection((host, int(port)), timeout=30)


def sent(service: Service, data: bytes) -> list[bytes]:
    """Send bytes, and return the lines that come until the service closes the connection."""
    found = b""
    with connected(service) as peer:
        with suppress(ConnectionError):  # what it has not read yet makes its end a reset
            peer.sendall(data)
        with suppress(ConnectionError):
            while part := peer.recv(65_536):
                found += part
    return found.splitlines()


def header(**fields: object) -> bytes:
    return json.dumps({"type": "recognize", **fields}).encode() + b"\n"


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"{" + SECRET.encode() + b"\n", b"cannot be read"),
        (b"\n", b"cannot be read"),
        (b"[" * 50_000 + b"\n", b"cannot be read"),
        (b'{"type": "recognize", "data": {"text": "\xff\xfe"}}\n', b"cannot be read"),
        (b'{"type": "audio-start", "data": {"rate": NaN, "width": 2, "channels": 1}}\n', b"cannot be read"),
        (b'{"type": 5}\n', b"cannot be read"),
        (header(data_length="9"), b"cannot be read"),
        (header(data_length=3) + b"5.5", b"cannot be read"),
        (header(payload_length=2_000_000_000), b"too large"),
        (header(data_length=2_000_000_000), b"too large"),
        (header(data_length=-1), b"too large"),
        (header(payload_length=10**30), b"too large"),
        (header(payload_length=90_000) + b"x" * 200_000, b"too long"),
        ((header(type="x", payload_length=90_000) + b"x" * 90_000) * 3, b"sent too much"),
        (b"x" * 1_000_000, b"too long"),
    ],
    ids=range(15),
)
def test_what_is_no_event_ends_the_connection(service: Service, data: bytes, why: bytes) -> None:
    refused(service, data, why)


@pytest.mark.parametrize("service", [QUICK], indirect=True, ids=["quick"])
@pytest.mark.parametrize("data", [header()[:9], header(payload_length=9) + b"x", header(data_length=9) + b"x"])
def test_an_event_that_comes_too_slowly_ends_the_connection(service: Service, data: bytes) -> None:
    refused(service, data, b"too slowly")


def refused(service: Service, data: bytes, why: bytes) -> None:
    answer = b"\n".join(sent(service, data))
    assert why in answer
    assert json.loads(answer.split(b"\n")[0])["type"] == "error"
    assert SECRET.encode() not in answer


@pytest.mark.parametrize("data", [b"", header()[:9], header(payload_length=9) + b"x", header(data_length=9) + b"x"])
def test_peers_that_go_in_between_leave_nothing(service: Service, data: bytes) -> None:
    for linger in (None, b"\1\0\0\0\0\0\0\0"):  # an end, and a reset
        with connected(service) as peer:
            peer.sendall(data)
            if linger is not None:
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    while service.running._service._connections:
        time.sleep(0.01)


def test_the_error_comes_where_only_half_of_the_connection_is_closed(service: Service) -> None:
    with connected(service) as peer:
        peer.sendall(header(data_length=100) + b'{"text"')
        peer.shutdown(socket.SHUT_WR)
        assert b"ends too early" in peer.makefile("rb").read()


@pytest.mark.parametrize("service", [replace(LIMITS, idle_s=0.3)], indirect=True, ids=["quick"])
def test_silence_is_not_waited_for(service: Service) -> None:
    with connected(service) as peer:
        assert peer.recv(1) == b""


def test_events_that_nobody_knows_are_dropped(service: Service) -> None:
    assert [one.type for one in asked(service.uri, Event("x", {"a": 1}, b"y"), Describe().event())] == ["info"]


def test_hundreds_of_idle_connections_keep_nobody_out(tmp_path: Path) -> None:
    limits = Limits(connections=8)
    with serving(intents(tmp_path / "i.edgefuse"), Settings(limits=limits)) as service, ExitStack() as stack:
        for _ in range(300):  # descriptors are few: the two ends of each are ours
            stack.enter_context(connected(service))
        assert asked(service.uri, Recognize("go").event())[0].type == "intent"
        assert len(service.running._service._connections) <= limits.connections


def test_those_who_are_being_answered_are_not_sent_away(tmp_path: Path) -> None:
    limits = Limits(connections=1)
    with serving(intents(tmp_path / "i.edgefuse"), Settings(limits=limits)) as service, connected(service) as peer:
        with service.busy():
            peer.sendall(header(data={"text": "go"}))
            service.queue.taken.acquire()
            (refused,) = asked(service.uri, Describe().event())
            assert (refused.type, refused.data["code"]) == ("error", "full")
        assert b'"intent"' in peer.makefile("rb").readline()


def test_whoever_does_not_read_is_left(tmp_path: Path) -> None:
    limits = Limits(event_s=0.3)
    with serving(intents(tmp_path / "i.edgefuse"), Settings(limits=limits)) as service, connected(service) as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        try:
            while True:
                peer.sendall(b'{"type": "ping", "data": {"text": "' + b"x" * 60_000 + b'"}}\n')
        except (ConnectionError, TimeoutError):
            pass
        while service.running._service._connections:
            time.sleep(0.01)


def test_the_end_waits_for_nobody_who_does_not_read(tmp_path: Path) -> None:
    limits = Limits(event_s=600)
    with serving(intents(tmp_path / "i.edgefuse"), Settings(limits=limits)) as service, connected(service) as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.settimeout(0.3)
        with pytest.raises(TimeoutError):
            peer.sendall((b'{"type": "ping", "data": {"text": "' + b"x" * 60_000 + b'"}}\n') * 1000)
        closing = threading.Thread(target=service.running.close, args=(0.6,))
        closing.start()
        closing.join(60)
        assert not closing.is_alive()
        service.running._thread.join(60)  # the event loop may take more than its grace
        assert not service.running._thread.is_alive()


def test_closing_while_the_thread_ends_is_harmless(tmp_path: Path) -> None:
    with serving(intents(tmp_path / "i.edgefuse")) as service:
        assert service.running.close()
        ended = threading.Event()
        ending = threading.Thread(target=ended.wait)
        ending.start()
        service.running._thread = ending  # as it is when its loop was closed, and it was not over yet
        try:
            assert not service.running.close(0)
        finally:
            ended.set()
            ending.join()


class PanicError(BaseException):
    """As runtimes written in Rust raise it."""


@pytest.mark.parametrize("kind", [KeyError, PanicError])
def test_a_bug_is_logged_without_what_was_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, kind: type[BaseException]
) -> None:
    def fail(_: object) -> None:
        raise kind(SECRET)

    with serving(intents(tmp_path / "i.edgefuse")) as service:
        monkeypatch.setattr(service.queue, "submit", fail)
        (error,) = asked(service.uri, Recognize(SECRET).event())
        assert (error.type, error.data["code"]) == ("error", "failed")
    assert kind.__name__ in caplog.text
    assert SECRET not in caplog.text + error.data["text"]
