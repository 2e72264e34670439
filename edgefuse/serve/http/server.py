"""The server: connections, threads and TLS.

Cheroot reads a new connection with a thread of its pool at once, and does the handshake of TLS in the one that accepts.
Here the thread that watches all connections also receives, without waiting, and a thread of the pool gets a request
that has come whole; the handshake is a part of receiving. So clients that are silent or slow hold nobody up.
"""

from __future__ import annotations

import logging
import math
import os
import selectors
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from cheroot.connections import ConnectionManager, _ThreadsafeSelector
from cheroot.ssl import Adapter
from cheroot.wsgi import Server as CherootServer

from edgefuse.errors import InputError, cited
from edgefuse.serve.http.limits import Limits
from edgefuse.serve.http.wire import Connection

_log = logging.getLogger(__name__)
_LINGER_S = 1.0
_BEGIN_BYTES = 32


class Tls(Adapter):
    """Wraps connections; the handshake is done when they are read.

    Args:
        certificate: a PEM file with the certificate, and those that lead to it.
        key: a PEM file with its key.

    Raises:
        InputError: they cannot be read, or do not belong together.
    """

    def __init__(self, certificate: Path, key: Path) -> None:
        super().__init__(str(certificate), str(key))
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        try:
            self.context.load_cert_chain(certificate, key, password=lambda: "")
        except (OSError, ValueError) as error:
            raise InputError(
                f"the certificate '{certificate}' and the key '{key}' cannot be used",
                got=cited(error),
                expected="two PEM files that belong together, the key without a password",
            ) from error

    def bind(self, sock: Any) -> Any:
        """Return the listening socket as it is."""
        return sock

    def wrap(self, sock: Any) -> tuple[Any, dict[str, str]]:
        """Return an accepted socket with TLS around it, and what WSGI is to know of it."""
        wrapped = self.context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        return wrapped, self.get_environ(wrapped)

    def get_environ(self, sock: Any = None) -> dict[str, str]:
        """Return what WSGI is to know of a connection."""
        return {"wsgi.url_scheme": "https", "HTTPS": "on"}

    def makefile(self, *_: Any) -> Any:
        """Is not called: a connection makes its files itself."""
        raise NotImplementedError


class _Selector(_ThreadsafeSelector):
    """Knows whose each connection is: whoever took it from here.

    Cheroot goes through what was ready a moment ago. Meanwhile one of these may have been given to a thread and closed,
    and its number be that of a connection that came since.
    """

    _selector: selectors.BaseSelector
    _lock: threading.Lock

    def select(self, timeout: float | None = None) -> Iterator[tuple[int, Any]]:
        """Take, one after the other, what is ready and still watched."""
        for key, _ in self._selector.select(timeout):
            if isinstance(key.data, Server) or self.take(key.fd, key.data):
                yield key.fd, key.data

    def take(self, fileno: int, data: Any) -> bool:
        """Watch a connection no more; whether it was watched."""
        with self._lock:
            key = (self._selector.get_map() or {}).get(fileno)
            if key is None or key.data is not data:
                return False
            self._selector.unregister(fileno)
        return True

    def unregister(self, fileobj: int) -> None:
        """Is called by cheroot for what `select` has taken already."""
        with suppress(KeyError, ValueError):
            super().unregister(fileobj)  # type: ignore[no-untyped-call]


class Watched(ConnectionManager):
    """The connections that wait for their client.

    Args:
        server: whose they are.
    """

    def __init__(self, server: Server) -> None:
        super().__init__(server)
        self._selector.close()
        self._selector: Any = _Selector()
        self._selector.register(server.socket.fileno(), selectors.EVENT_READ, data=server)

    @property
    def waiting(self) -> list[Connection]:
        """All of them."""
        return [one for _, one in list(self._selector.connections) if one is not self.server]

    def take(self, connection: Connection) -> bool:
        """Watch one no more; whether it was watched: if not, it is another thread's."""
        return bool(self._selector.take(connection.arrived.fileno(), connection))

    def stop(self) -> None:
        """Watch and listen no more; what has come up to now is given to threads: closed, it would have no answer."""
        super().stop()
        come = [one for one in self.waiting if self.take(one)]
        listener, self.server.socket = self.server.socket, None
        listener.setblocking(False)
        for _ in range(self.server.limits.connections):
            new = self._from_server_socket(listener)  # type: ignore[attr-defined] # its types do not have it
            if new is None:
                break
            come.append(new)
        listener.close()
        for one in come:
            self.server.finish(one)

    def _expire(self, threshold: float) -> None:
        """End what was idle, or lingers, for too long; a request that does not come in time is told so by a thread."""
        now = time.monotonic()
        for one in self.waiting:
            took_s, unfinished = now - one.since_s, bool(one.arrived.data) and not one.lingering
            if one.lingering:
                over = took_s > _LINGER_S
            elif unfinished:
                over = took_s > self.server.limits.read_s
            else:
                over = one.last_used < threshold
            if over and self.take(one):
                one.arrived.late = unfinished
                self.server.requests.put(one) if unfinished else one.close()


class Server(CherootServer):
    """Serves a WSGI application within limits.

    Args:
        address: host and port; of port 0, `bind_addr` has the real one after `prepare`.
        app: the application.
        limits: of each client, and of all of them.
        gate: is given the first bytes of each request that has come; what it returns is the answer, and the request is
            not read.
        tls: for HTTPS.
    """

    ConnectionClass = Connection
    _connections: Watched  # since `prepare`

    def __init__(
        self,
        address: tuple[str, int],
        app: Any,
        limits: Limits,
        gate: Callable[[bytes], bytes | None],
        tls: Tls | None = None,
    ) -> None:
        super().__init__(
            address,
            app,
            numthreads=limits.threads,
            max=limits.threads,
            server_name="edgefuse",
            request_queue_size=128,
            timeout=math.ceil(limits.idle_s),
            shutdown_timeout=1,
        )
        self.limits, self.gate = limits, gate
        self.ssl_adapter = tls
        self.max_request_header_size = limits.header_bytes
        self.max_request_body_size = limits.body_bytes
        self.keep_alive_conn_limit = limits.connections
        self.software = "edgefuse"
        self.expiration_interval = 0.1
        self._open: set[Connection] = set()
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
        self._connections.close()
        self._connections = Watched(self)

    def process_conn(self, conn: Connection) -> None:
        """Go on with a connection that is new, or has something to say; called by the thread that watches."""
        if not conn.seen:
            conn.seen = True
            if len(self._open) > self.limits.connections and not self._end_idlest():
                conn.close()
            else:
                self._connections.put(conn)
            return
        conn.receive()
        if conn.arrived.ended and not conn.arrived.data:
            conn.close()
            return
        if not conn.is_ready():
            self._end_largest(conn)
        self._sort(conn)

    def put_conn(self, conn: Connection) -> None:
        """Go on with a connection whose request was answered; called by the thread that did."""
        conn.again()
        if self.ready:
            self._sort(conn)
        else:
            conn.close()

    def finish(self, conn: Connection) -> None:
        """Give a request that has come to a thread, and end any other connection: nobody watches any more."""
        if not conn.lingering:
            conn.receive()
        if not conn.lingering and conn.is_ready():
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

    def _sort(self, conn: Connection) -> None:
        """Give a request that has come to a thread, and watch for the rest of any other."""
        if not conn.lingering and (conn.crowded or conn.is_ready()):
            answer = None if conn.crowded else self.gate(bytes(conn.arrived.data[:_BEGIN_BYTES]))
            self.requests.put(conn) if answer is None else conn.refuse(answer)
        elif not self.watch(conn):
            conn.close()

    def _end_largest(self, conn: Connection) -> None:
        """Where all that has come takes too much memory, refuse the largest request that is not whole."""
        with self._lock:
            held = sum(len(one.arrived.data) for one in self._open)
        if held <= max(self.limits.bodies_bytes, self.limits.body_bytes):
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

    def _end_idlest(self) -> bool:
        """End the connection that has been watched for the longest time, if there is one."""
        waiting = self._connections.waiting
        if not waiting:
            return False
        idlest = min(waiting, key=lambda one: one.last_used)
        if self._connections.take(idlest):
            idlest.close()
        return True
