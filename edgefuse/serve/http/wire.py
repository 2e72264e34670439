"""Requests as they stand on a connection, read strictly (RFC 9112) and in bounded time.

Whatever two programs could read differently is refused, since one that is in front of this may read it the other way
(request smuggling): folded fields, bare CR or LF, space before a colon, a length twice or beside a transfer coding,
and transfer codings as such: a request says its length.
"""

from __future__ import annotations

import json
import re
import socket
import time
from contextlib import suppress
from typing import Any, BinaryIO

from cheroot.makefile import MakeFile
from cheroot.server import HeaderReader, HTTPConnection, HTTPRequest

from edgefuse.serve.http.limits import Limits

_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_LENGTH = re.compile(rb"[0-9]{1,18}")
_ONCE = (b"Content-Length", b"Transfer-Encoding", b"Host", b"Authorization", b"Content-Type", b"Expect")
_LINGER_S, _LINGER_BYTES = 1.0, 1 << 20


class Fields(HeaderReader):
    """Reads header fields, as many as may be."""

    def __init__(self, most: int) -> None:
        self._most = most

    def __call__(self, rfile: BinaryIO, hdict: dict[bytes, bytes] | None = None) -> dict[bytes, bytes]:
        """Return the fields by name, in the form `Content-Length`; a `ValueError` says what is wrong with them."""
        found: dict[bytes, bytes] = {} if hdict is None else hdict
        for _ in range(self._most + 1):
            line = rfile.readline()
            if line == b"\r\n":
                _check_body(found)
                return found
            name, value = _field(line)
            if name in found:
                if name in _ONCE:
                    raise ValueError(f"The field {name.decode()} stands twice.")
                value = found[name] + b", " + value
            found[name] = value
        raise ValueError(f"There are more than {self._most} header fields.")


def _field(line: bytes) -> tuple[bytes, bytes]:
    """Return the name and value of a line."""
    if not line.endswith(b"\r\n"):
        raise ValueError("A header field does not end with CR LF.")
    name, colon, value = line[:-2].partition(b":")
    if not colon or not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
        raise ValueError("A header field is malformed, or folded.")
    return name.title(), value.strip(b" \t")


def _check_body(fields: dict[bytes, bytes]) -> None:
    """Refuse what leaves open where the body ends."""
    length = fields.get(b"Content-Length")
    if length is not None and not _LENGTH.fullmatch(length):
        raise ValueError("Content-Length is no number.")
    if length is not None and b"Transfer-Encoding" in fields:
        raise ValueError("Content-Length and Transfer-Encoding exclude one another.")


class Request(HTTPRequest):
    """A request whose body has a length that it tells, and whose errors are answered with JSON."""

    def __init__(self, server: Any, conn: Connection, *arguments: Any, **options: Any) -> None:
        super().__init__(server, conn, *arguments, **options)
        self.header_reader = Fields(server.limits.fields)
        conn.timed.begin(server.limits.read_s)

    def read_request_headers(self) -> bool:
        """Read the fields, and answer where they are wrong; whether they are right."""
        if not super().read_request_headers():  # type: ignore[no-untyped-call]
            return False
        if b"Transfer-Encoding" in self.inheaders:
            self.simple_response("411 Length Required", "A request says its length: send Content-Length.")
            return False
        if self.response_protocol == "HTTP/1.1" and b"Host" not in self.inheaders:
            self.simple_response("400 Bad Request", "The field Host is missing.")
            return False
        return True

    def send_headers(self) -> None:
        """Send the status and fields; after an error the rest of the request is not read, and the connection ends."""
        unread: int = getattr(self.rfile, "remaining", 0)
        if unread and int(self.status[:3]) >= 400:
            self.close_connection = self.conn.rude = True
        super().send_headers()

    def simple_response(self, status: str | int, msg: str = "") -> None:
        """Answer what is not given to the application, and end the connection.

        Args:
            status: code and reason.
            msg: what is wrong.
        """
        code, _, reason = str(status).partition(" ")
        body = json.dumps({"error": {"status": int(code), "message": msg or f"{reason}."}}).encode()
        head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        self.close_connection = self.conn.rude = True
        with suppress(OSError):
            self.conn.wfile.write(f"{head}Connection: close\r\n\r\n".encode() + body)


class Timed:
    """A socket whose request has to be read by some time, however slowly its bytes come."""

    def __init__(self, inner: socket.socket, write_s: float) -> None:
        self._inner, self._write_s, self._ends = inner, write_s, 0.0

    def begin(self, read_s: float) -> None:
        """From now on, all of a request has to come in so many seconds."""
        self._ends = time.monotonic() + read_s

    def recv_into(self, buffer: Any, *arguments: Any) -> int:
        """Receive; a `TimeoutError` where the time is up."""
        left = self._ends - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        self._inner.settimeout(left)
        return self._inner.recv_into(buffer, *arguments)

    def send(self, data: bytes, *arguments: Any) -> int:
        """Send; a `TimeoutError` where the client does not accept it."""
        self._inner.settimeout(self._write_s)
        return self._inner.send(data, *arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class Connection(HTTPConnection):
    """A connection that does not wait for ever, and that ends so that a refused client can read why.

    Attributes:
        timed: its socket.
        rude: whether it ends with something of a request unread.
        seen: whether a request may have come, so that a thread is to read it.
    """

    RequestHandlerClass = Request

    def __init__(self, server: Any, sock: socket.socket, makefile: Any = MakeFile) -> None:
        limits: Limits = server.limits
        self.timed = Timed(sock, limits.write_s)
        self.rude = self.seen = False
        super().__init__(server, self.timed, MakeFile)
        server.opened(self)

    def close(self) -> None:
        """End; what a refused client still sends is thrown away for a while, or it would not see the answer."""
        self.server.closed(self)
        if self.rude:
            with suppress(OSError):
                self._linger()
        super().close()

    def _linger(self) -> None:
        self.timed.shutdown(socket.SHUT_WR)
        ends, left, thrown = time.monotonic() + _LINGER_S, _LINGER_BYTES, bytearray(1 << 16)
        while left > 0 and (seconds := ends - time.monotonic()) > 0:
            self.timed.settimeout(seconds)
            count = self.timed._inner.recv_into(thrown)
            if not count:
                return
            left -= count
