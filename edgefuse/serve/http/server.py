"""The server: connections, threads and TLS.

Cheroot reads a new connection with a thread of its pool at once, and does the handshake of TLS in the one that accepts.
Here a connection is watched until it has something to say, and the handshake is a part of reading it, so that clients
that connect and say nothing hold nobody up.
"""

from __future__ import annotations

import logging
import math
import ssl
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from cheroot.ssl import Adapter
from cheroot.wsgi import Server as CherootServer

from edgefuse.errors import InputError, cited
from edgefuse.serve.http.limits import Limits
from edgefuse.serve.http.wire import Connection

_log = logging.getLogger(__name__)


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


class Server(CherootServer):
    """Serves a WSGI application within limits.

    Args:
        address: host and port; of port 0, `bind_addr` has the real one after `prepare`.
        app: the application.
        limits: of each client, and of all of them.
        tls: for HTTPS.
    """

    ConnectionClass = Connection
    _connections: Any  # its manager of connections, since `prepare`

    def __init__(self, address: tuple[str, int], app: Any, limits: Limits, tls: Tls | None = None) -> None:
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
        self.limits = limits
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

    def process_conn(self, conn: Connection) -> None:
        """Give a connection that has something to say to a thread; watch a new one until then."""
        if conn.seen:
            super().process_conn(conn)
            return
        conn.seen = True
        if len(self._open) > self.limits.connections and not self._end_idlest():
            conn.close()
            return
        self._connections.put(conn)

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
        selector = self._connections._selector
        watched = [(fd, one) for fd, one in selector.connections if one is not self]
        if not watched:
            return False
        fd, idlest = min(watched, key=lambda pair: pair[1].last_used)
        selector.unregister(fd)
        with suppress(OSError):
            idlest.close()
        return True
