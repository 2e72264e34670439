"""The server: cheroot, with connections of our own in front of its threads."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
import threading
import time
import traceback as traceback_
from collections.abc import Callable
from typing import Any

from cheroot import wsgi
from cheroot.workers.threadpool import ThreadPool

from edgefuse.errors import InputError
from edgefuse.files import reason
from edgefuse.serve.http.connections import Connection, Connections
from edgefuse.serve.http.limits import Limits
from edgefuse.serve.http.tls import Tls

_log = logging.getLogger(__name__)
_PAUSE_S = 0.02
_SHARE_OF_COMING = 0.5
"""Of the time that an ending may take: for requests that are coming over connections that were accepted."""


class Server(wsgi.Server):  # type: ignore[misc]
    """Listens from when it is made, and answers from `serve` on, until `stop`.

    Args:
        address: host and port; port 0 takes a free one.
        application: of WSGI.
        limits: of the service.
        threads: that answer: more than requests may wait in front of the model, so that more are refused at once.
        tls: a certificate, if it speaks HTTPS.
        refused: is called with the status of each request that never reaches the application.

    Raises:
        InputError: nothing can listen there.
    """

    ConnectionClass = Connection
    expiration_interval = 0.2

    def __init__(
        self,
        address: tuple[str, int],
        application: Any,
        limits: Limits,
        threads: int,
        tls: Tls | None = None,
        refused: Callable[[int], object] = lambda status: None,
    ) -> None:
        super().__init__(address, application, server_name="edgefuse", timeout=limits.write_s, request_queue_size=128)
        self._limits, self._refused = limits, refused
        self.requests = _Threads(self, min=threads, max=threads)
        self.keep_alive_conn_limit = None  # the limit of connections holds for these, too
        self.ssl_adapter = tls
        try:
            self.prepare()
        except OSError as error:
            raise InputError(
                f"nothing can listen at {address[0]}:{address[1]}", got=reason(error), fix="name another address"
            ) from error
        self._thread = threading.Thread(target=self.serve, name="edgefuse-http", daemon=True)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.bind_addr[1])

    def prepare(self) -> None:
        """Listen, with connections of our own."""
        os.environ.pop("LISTEN_PID", None)  # cheroot would take whatever socket has the number 3 for ours
        super().prepare()
        self._connections.close()
        self._connections = Connections(self, self._limits, self._refused)

    def run(self) -> None:
        """Answer, in threads of its own."""
        self._thread.start()

    def end(self, timeout_s: float) -> None:
        """Listen no more; requests that have come are answered.

        Args:
            timeout_s: after which a connection that still sends or receives is cut.
        """
        until = time.monotonic() + timeout_s
        self._connections.listen_no_more()
        while self._connections.expects and time.monotonic() < until - timeout_s * (1 - _SHARE_OF_COMING):
            time.sleep(_PAUSE_S)
        self.shutdown_timeout = max(_PAUSE_S, until - time.monotonic())
        self.stop()
        if self._thread.is_alive():
            self._thread.join()

    def process_conn(self, connection: Connection) -> None:
        """Go on with a connection that is new, or has something to read."""
        self._connections.received(connection)

    def forget(self, connection: Connection) -> None:
        """Count a connection no more: it is closed."""
        self._connections.forget(connection)

    def error_log(self, msg: str = "", level: int = logging.INFO, traceback: bool = False) -> None:
        """Log where something went wrong; what cheroot says of it may quote a request, and is left out.

        Args:
            msg: is not logged.
            level: is that of the kind of error.
            traceback: is logged where the error is a bug.
        """
        error = sys.exc_info()[1]
        if error is None or isinstance(error, OSError):
            _log.debug("a connection ended: %s", type(error).__name__)
        else:
            where = "".join(traceback_.format_tb(error.__traceback__))
            _log.error("a bug of ours, or of cheroot: %s\n%s", type(error).__name__, where)


class _Threads(ThreadPool):  # type: ignore[misc]
    """Threads that answer; one that waits for a peer when the time is over is woken, whatever it waits for."""

    @staticmethod
    def _force_close(conn: Connection | None) -> None:
        if conn is not None:
            with contextlib.suppress(OSError):
                conn.socket.shutdown(socket.SHUT_RDWR)
