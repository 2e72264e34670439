"""The server: whose turn it is, of the connections and of the threads that answer.

Cheroot reads a new connection with a thread of its pool at once, and does the handshake of TLS in the one that accepts.
Here the thread that watches all connections also receives, without waiting, and a thread of the pool gets a request
that has come whole; the handshake is a part of receiving. So clients that are silent or slow hold nobody up.
"""

from __future__ import annotations

import logging
import math
import os
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from itertools import chain
from typing import Any

from cheroot.wsgi import Server as CherootServer

from edgefuse.serve.http.limits import Limits
from edgefuse.serve.http.tls import Tls
from edgefuse.serve.http.watched import Watched
from edgefuse.serve.http.wire import Connection, refusal

_log = logging.getLogger(__name__)
_BACKLOG = 128
_BEGIN_BYTES = 32
_BUFFER_BYTES = 1 << 18
_SENT_BYTES = 1 << 16
"""Of an answer that the system keeps: it tells that there is room when a third of them is gone, which a slow client
has to accept within `Limits.write_s`. By itself it keeps up to 4 MB."""
_CROWDED = refusal("429 Too Many Requests", "This service has as many connections as it takes.", {"Retry-After": "1"})


class Server(CherootServer):
    """Serves a WSGI application within limits.

    Args:
        address: host and port; of port 0, `bind_addr` has the real one after `prepare`.
        app: the application.
        limits: of each client, and of all of them.
        gate: is given what has come of each request, when that begins and whenever there is more; what it returns is
            the answer, and the rest of the request is thrown away.
        tls: for HTTPS.

    Attributes:
        buffer: that what comes is received into, by the thread that watches; after that has ended, by who ended it.
    """

    ConnectionClass = Connection
    _connections: Watched  # since `prepare`

    def __init__(
        self,
        address: tuple[str, int],
        app: Any,
        limits: Limits,
        gate: Callable[[bytearray], bytes | None],
        tls: Tls | None = None,
    ) -> None:
        super().__init__(
            address,
            app,
            numthreads=limits.threads,
            max=limits.threads,
            server_name="edgefuse",
            request_queue_size=max(_BACKLOG, limits.connections),
            timeout=math.ceil(limits.idle_s),
            shutdown_timeout=1,
        )
        self.limits, self.gate = limits, gate
        self.buffer = memoryview(bytearray(_BUFFER_BYTES))
        self.ssl_adapter = tls
        self.max_request_header_size = limits.header_bytes
        self.max_request_body_size = limits.body_bytes
        self.keep_alive_conn_limit = limits.connections
        self.software = "edgefuse"
        self.expiration_interval = 0.1
        self._open: set[Connection] = set()
        self._held_at_most = 0
        self._lock = threading.Lock()

    def opened(self, connection: Connection) -> None:
        """Count a connection."""
        with self._lock:
            self._open.add(connection)

    def closed(self, connection: Connection) -> None:
        """Count it no more."""
        with self._lock:
            self._open.discard(connection)

    def prepare(self) -> None:
        """Listen."""
        os.environ.pop("LISTEN_PID", None)  # cheroot would take whatever has the number 3 for a socket of ours
        super().prepare()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SENT_BYTES)  # of those that it accepts
        self._connections.close()
        self._connections = Watched(self)

    def process_conn(self, conn: Connection) -> None:
        """Go on with a connection that has something to say, or with all that are new; the thread that watches does."""
        if conn.seen:
            self._receive(conn)
            self._sort(conn)
            return
        for new in chain([conn], self._connections.accepted()):
            new.seen = True
            self._receive(new)
            if len(self._open) > self.limits.connections and not self._make_room():
                new.refuse(_CROWDED)
            else:
                self._sort(new)

    def put_conn(self, conn: Connection) -> None:
        """Go on with a connection whose request was answered; called by the thread that did."""
        conn.again()
        if self.ready:
            self._sort(conn)
        else:
            conn.close()

    def finish(self, conn: Connection) -> None:
        """Give a request that has come to a thread, and end any other connection: nobody watches any more."""
        while conn.receive() and not conn.is_ready():
            pass  # what has come may be more than is received at a time
        if conn.is_ready():
            self.requests.put(conn)
        else:
            conn.close()

    def watch(self, conn: Connection) -> bool:
        """Watch a connection; whether that is done: a service that ends watches none."""
        if self.ready:
            with suppress(OSError, ValueError, KeyError):
                self._connections.put(conn)
                return True
        return False

    def _receive(self, conn: Connection) -> int:
        """Take what has come, without waiting; how many bytes that are."""
        came = conn.receive()
        self._held_at_most += came
        return came

    def _sort(self, conn: Connection) -> None:
        """Refuse a request, give one that has come to a thread, and watch for the rest of any other."""
        arrived = conn.arrived
        if arrived.ended and not arrived.data:
            conn.close()
            return
        begun = len(arrived.data) >= _BEGIN_BYTES and not conn.crowded
        if begun and (answer := self.gate(arrived.data)) is not None:
            conn.refuse(answer)
            return
        if not conn.is_ready():
            self._end_largest(conn)
        if conn.crowded or conn.is_ready():
            self.requests.put(conn)
            return
        conn.invite()
        if not self.watch(conn):
            conn.close()

    def _end_largest(self, conn: Connection) -> None:
        """Where all that has come takes too much memory, refuse the largest request that is not whole."""
        most = max(self.limits.bodies_bytes, self.limits.body_bytes)
        if self._held_at_most <= most or not conn.arrived.data:  # nothing was asked, and nothing is answered
            return
        with self._lock:
            self._held_at_most = sum(len(one.arrived.data) for one in self._open)
        if self._held_at_most <= most:
            return
        largest = max([conn, *self._connections.waiting], key=lambda one: len(one.arrived.data))
        if largest is not conn and not self._connections.take(largest):
            return
        largest.crowded = True
        largest.arrived.data.clear()
        if largest is not conn:
            self.requests.put(largest)

    def error_log(self, msg: str = "", level: int = logging.INFO, traceback: bool = False) -> None:
        """Log what kind of thing went wrong with a connection, and nothing of what came over it.

        Args:
            msg: is not logged.
            level: of the line.
            traceback: whether an error is being handled, whose type is logged.
        """
        error = sys.exc_info()[1]
        if isinstance(error, OSError) or error is None:  # a client that went away, or did not speak TLS
            _log.debug("a connection ended early (%s)", type(error).__name__)
        else:
            _log.log(level, "a connection ended by an error: %s", type(error).__name__)

    def _make_room(self) -> bool:
        """End the connection that lingers, or was silent, for the longest; whether there is a place.

        One of which something has come that nobody looked at yet was not silent.
        """
        if self._connections.end_lingering():
            return True
        for idlest in self._connections.waiting:
            if not self._connections.take(idlest):
                continue
            if self._receive(idlest):
                self._sort(idlest)
            else:
                idlest.close()
            if len(self._open) <= self.limits.connections:
                return True
        return False
