"""Connections until a whole request has come: no thread waits for a peer that is slow, or silent.

cheroot hands a connection to a thread before anything has come, and reads there; so as many silent peers as there are
threads stop it. Here the thread that waits for all sockets reads, too, within bounds of bytes and time, and a thread
gets a connection with a whole request in memory, whose head was read strictly. The handshake of TLS is part of that.
"""

from __future__ import annotations

import contextlib
import io
import selectors
import socket
import ssl
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from cheroot.connections import ConnectionManager, _ThreadsafeSelector
from cheroot.makefile import MakeFile
from cheroot.server import HTTPConnection

from edgefuse.serve.http.head import END, Head, check_line_ends, read
from edgefuse.serve.http.limits import Limits
from edgefuse.serve.http.refusal import JSON, Refusal, body, retry_after_s
from edgefuse.serve.http.request import Request

_CHUNK_BYTES = 65_536
_LINGER_S = 2.0
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_LATER = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Connection(HTTPConnection):  # type: ignore[misc]
    """A connection, and what has come over it of its next request.

    Attributes:
        buffer: the bytes that have come.
        head: of the request, once that is whole.
        since_s: when this part of the request began, or the connection became idle, by the monotonic clock.
        active_s: when bytes came last.
        is_new: no request has come over it yet.
        lingering: it was refused: what still comes is dropped, so that the peer can read why.
    """

    RequestHandlerClass = Request

    def __init__(self, server: Any, peer: Any, makefile: Any = MakeFile) -> None:
        super().__init__(server, peer, makefile)
        self.rfile = Whole(b"")
        self.buffer = bytearray()
        self.head: Head | None = None
        self.lingering = False
        self.is_new = True
        self.since_s = self.active_s = time.monotonic()
        self._checked = self._begin = 0

    def is_whole(self, limits: Limits) -> bool:
        """Tell whether a whole request has come.

        Raises:
            Refusal: what has come is no request that is answered.
        """
        if self.head is None:
            self._read_head(limits)
        return self.head is not None and len(self.buffer) >= self._begin + self.head.length

    def _read_head(self, limits: Limits) -> None:
        if self.buffer.startswith(b"\r\n"):  # after the last request; RFC 9112, 2.2
            del self.buffer[:2]
        end = self.buffer.find(END, max(0, self._checked - len(END)))
        come = len(self.buffer) if end < 0 else end
        if come > limits.header_bytes:
            raise Refusal(431, "the head of the request is too large", expected=f"at most {limits.header_bytes} bytes")
        check_line_ends(self.buffer[:come], self._checked)
        self._checked = come
        if end >= 0:
            self.head = read(bytes(self.buffer[:end]), limits)
            self._begin = end + len(END)
            self.since_s = time.monotonic()
            if self.head.expects and len(self.buffer) < self._begin + self.head.length:
                self.send(_CONTINUE)

    def take(self) -> int:
        """Make the whole request what is read next, and return its size in bytes."""
        assert self.head is not None  # `is_whole` said so
        end = self._begin + self.head.length
        with memoryview(self.buffer) as view:
            self.rfile = Whole(bytes(view[:end]))
        del self.buffer[:end]
        self.head, self._checked, self._begin = None, 0, 0
        self.is_new = False
        return end

    def send(self, data: bytes) -> None:
        """Send a little without waiting for the peer."""
        with contextlib.suppress(OSError):
            self.socket.send(data)

    def close(self) -> None:
        """Close the socket."""
        self.server.forget(self)
        with contextlib.suppress(OSError):  # the peer was faster
            super().close()


class Whole(io.BytesIO):
    """A request that has come whole, as cheroot reads it."""

    bytes_read = 0

    def has_data(self) -> bool:
        """Tell whether something is left; what follows the request is in the connection's buffer."""
        return False


class _Selector(_ThreadsafeSelector):  # type: ignore[misc]
    """Forgets what was closed meanwhile: cheroot goes through sockets that were ready a moment ago."""

    def unregister(self, fileobj: int) -> None:
        with contextlib.suppress(KeyError, ValueError):
            super().unregister(fileobj)


class Connections(ConnectionManager):  # type: ignore[misc]
    """All connections of a server, and the thread that waits for them.

    Args:
        server: that listens.
        limits: of the service.
        refused: is called with the status of each request that is refused here.
    """

    def __init__(self, server: Any, limits: Limits, refused: Callable[[int], object]) -> None:
        super().__init__(server)
        self._selector.close()
        self._selector = _Selector()
        self._selector.register(server.socket.fileno(), selectors.EVENT_READ, data=server)
        self._limits, self._refused = limits, refused
        self._lock = threading.Lock()
        self._open: dict[Connection, int] = {}  # and the bytes that each holds
        self._listening = True

    def received(self, connection: Connection) -> None:
        """Go on with a connection that is new or has something to read; called by the thread that waits."""
        if connection.socket.fileno() < 0:
            return
        if connection not in self._open:
            self._admit(connection)
            return
        try:
            data = connection.socket.recv(_CHUNK_BYTES)
        except _LATER:
            self._wait(connection)
            return
        except OSError:  # it is broken, or speaks no TLS
            data = b""
        if not data:
            connection.close()
        elif connection.lingering:
            self._wait(connection)
        else:
            self._append(connection, data)

    def listen_no_more(self) -> None:
        """Accept no more connections; the thread that waits does it within half a second."""
        self._listening = False

    @property
    def expects(self) -> bool:
        """Whether new connections may come, or a request is coming over one that was accepted."""
        if self.server.socket is not None:
            return True
        return any(one.is_new or one.buffer for one in self._waiting() if not one.lingering)

    def put(self, connection: Connection) -> None:
        """Take a connection back whose request was answered; called by the thread that did."""
        connection.rfile = Whole(b"")
        with self._lock:
            self._open[connection] = len(connection.buffer)
        connection.since_s = connection.active_s = time.monotonic()
        connection.socket.setblocking(False)
        self._go_on(connection)

    def forget(self, connection: Connection) -> None:
        """Count a connection no more: it is closed."""
        with self._lock:
            self._open.pop(connection, None)

    def _admit(self, connection: Connection) -> None:
        if len(self._open) >= self._limits.connections:
            waiting = self._waiting()
            if not waiting:
                connection.close()
                return
            self._end(min(waiting, key=lambda one: one.active_s))
        with self._lock:
            self._open[connection] = 0
        connection.socket.setblocking(False)
        self._wait(connection)

    def _append(self, connection: Connection, data: bytes) -> None:
        now = time.monotonic()
        if not connection.buffer:
            connection.since_s = now
        connection.active_s = now
        connection.buffer += data
        with self._lock:
            self._open[connection] += len(data)
            held = sum(self._open.values())
        if held > self._limits.buffered_bytes:
            largest = max([connection, *self._waiting()], key=lambda one: len(one.buffer))
            if largest is not connection:
                self._selector.unregister(largest.socket.fileno())
            self._refuse(largest, Refusal(429, "the requests that are coming take too much room", fix="try again"))
            if largest is connection:
                return
        self._go_on(connection)

    def _go_on(self, connection: Connection) -> None:
        """Hand a whole request to a thread that answers it, or wait for the rest."""
        try:
            whole = bool(connection.buffer) and connection.is_whole(self._limits)
        except Refusal as error:
            self._refuse(connection, error)
            return
        if whole:
            connection.take()
            connection.socket.settimeout(self._limits.write_s)
            self.server.requests.put(connection)
        else:
            self._wait(connection)

    def _refuse(self, connection: Connection, error: Refusal) -> None:
        """Say why, and drop what still comes for a while: a socket that is closed at once may lose the answer."""
        self._refused(error.status)
        connection.buffer.clear()
        with self._lock:
            self._open[connection] = 0
        connection.send(answer(error))
        with contextlib.suppress(OSError):
            connection.socket.shutdown(socket.SHUT_WR)
        connection.lingering, connection.since_s = True, time.monotonic()
        self._wait(connection)

    def _wait(self, connection: Connection) -> None:
        try:
            self._selector.register(connection.socket.fileno(), selectors.EVENT_READ, data=connection)
        except (OSError, ValueError, KeyError, RuntimeError):  # it was closed; the service ends
            connection.close()

    def _waiting(self) -> list[Connection]:
        return [one for _, one in list(self._selector.connections) if one is not self.server]

    def _end(self, connection: Connection) -> None:
        self._selector.unregister(connection.socket.fileno())
        connection.close()

    def _expire(self, threshold: float) -> None:
        """End what takes too long; called by the thread that waits, some times in a second."""
        del threshold  # of cheroot, which knows one time for everything
        if not self._listening and self.server.socket is not None:
            self._selector.unregister(self.server.socket.fileno())
            self.server.socket.close()
            self.server.socket = None
        now, limits = time.monotonic(), self._limits
        for one in self._waiting():
            if one.lingering or not one.buffer:
                if now - one.since_s > (_LINGER_S if one.lingering else limits.idle_s):
                    self._end(one)
                continue
            part, limit_s = ("head", limits.header_s) if one.head is None else ("body", limits.body_s)
            if now - one.since_s > limit_s:
                self._selector.unregister(one.socket.fileno())
                expected = f"within {limit_s:g} s"
                self._refuse(one, Refusal(408, f"the {part} of the request did not come in time", expected=expected))


def answer(error: Refusal) -> bytes:
    """Return a whole HTTP answer that tells of a refusal, and that the connection ends."""
    content = body(error.status, str(error))
    later = retry_after_s(error)
    lines = [
        f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}",
        f"Content-Type: {JSON}",
        f"Content-Length: {len(content)}",
        *([f"Retry-After: {later}"] if later is not None else []),
        "Cache-Control: no-store",
        "Connection: close",
    ]
    return "\r\n".join(lines).encode() + END + content
