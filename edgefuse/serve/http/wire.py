"""Requests as they stand on a connection, read strictly (RFC 9112), whole, and in bounded time.

A thread is given a request when all of it has come, or no more of it will: `Connection.receive` takes what comes
without waiting, so that no thread ever waits for a client to send.

Whatever two programs could read differently is refused, since one that is in front of this may read it the other way
(request smuggling): folded fields, bare CR or LF, space before a colon, a length twice or beside a transfer coding,
and transfer codings as such: a request says its length.
"""

from __future__ import annotations

import json
import re
import socket
import ssl
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, BinaryIO

from cheroot.makefile import MakeFile
from cheroot.server import HeaderReader, HTTPConnection, HTTPRequest

from edgefuse.serve.http.limits import TOO_MANY_BYTES, Limits

_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_LENGTH = re.compile(rb"[0-9]{1,18}")
_ONCE = (b"Content-Length", b"Transfer-Encoding", b"Host", b"Authorization", b"Content-Type", b"Expect")
END = b"\r\n\r\n"
"""Of a head."""
_BARE_LF = re.compile(rb"(?<!\r)\n")
_SAID = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,18})[ \t]*(?=\r\n)", re.IGNORECASE)
_CODED = re.compile(rb"\r\ntransfer-encoding", re.IGNORECASE)
_EXPECTS = re.compile(rb"\r\nexpect:[ \t]*100-continue[ \t]*(?=\r\n)", re.IGNORECASE)
_CLOSES = re.compile(rb"(?:^|,)[ \t]*close[ \t]*(?:,|$)", re.IGNORECASE)
_OLD = re.compile(rb"[^\n]* HTTP/1\.0\r\n")
_LINE_BYTES = 256
"""Of a line that cheroot reads at a time: a head that is too large is told as such when so much more is there."""
_FIRST_BYTES = 1 << 14
_ROUNDS = 64
_DISCARD = socket.MSG_TRUNC if sys.platform == "linux" else 0
"""What comes over TCP is not even copied, as tcp(7) has it."""
_PIECE_BYTES = 1 << 14
"""That is sent at a time: over TLS, all of it is accepted or none."""
_LATER = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


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
                found.pop(b"Expect", None)  # the client was told to go on, if it waited for that
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

    def parse_request(self) -> None:
        """Read the request line and the fields."""
        if self.conn.crowded:
            self.simple_response("429 Too Many Requests", TOO_MANY_BYTES)
        else:
            super().parse_request()

    def read_request_line(self) -> bool:
        """Read the first line, and answer where it is wrong; whether it is right."""
        try:
            return bool(super().read_request_line())  # type: ignore[no-untyped-call]
        except ValueError:  # of a target with brackets: to Python, an address of IPv6
            self.simple_response("400 Bad Request", "The target of the request is malformed.")
            return False

    def read_request_headers(self) -> bool:
        """Read the fields, and answer where they are wrong; whether they are right."""
        if not super().read_request_headers():  # type: ignore[no-untyped-call]
            return False
        if _CLOSES.search(self.inheaders.get(b"Connection", b"")):  # cheroot knows it as the one word in small letters
            self.close_connection = True
        if b"Transfer-Encoding" in self.inheaders:
            self.simple_response("411 Length Required", "A request says its length: send Content-Length.")
            return False
        if self.response_protocol == "HTTP/1.1" and b"Host" not in self.inheaders:
            self.simple_response("400 Bad Request", "The field Host is missing.")
            return False
        return True

    def send_headers(self) -> None:
        """Send the status and fields.

        After an error, or where it does not come, the rest of the request is not read, and the connection ends.
        """
        unread: int = getattr(self.rfile, "remaining", 0)
        arrived = self.conn.arrived
        if unread and (int(self.status[:3]) >= 400 or arrived.late or arrived.ended):
            self.close_connection = self.conn.rude = True
        super().send_headers()

    def simple_response(self, status: str | int, msg: str = "") -> None:
        """Answer what is not given to the application, and end the connection.

        Args:
            status: code and reason.
            msg: what is wrong.
        """
        self.close_connection = self.conn.rude = True
        with suppress(OSError):
            fields = {"Retry-After": "1"} if str(status).startswith("429") else {}
            self.conn.wfile.write(refusal(str(status), msg, fields))


def refusal(status: str, message: str, fields: Mapping[str, str]) -> bytes:
    """Return an answer after which the connection ends.

    Args:
        status: code and reason.
        message: what is wrong.
        fields: further ones of the answer.
    """
    code, _, reason = status.partition(" ")
    body = json.dumps({"error": {"status": int(code), "message": message or f"{reason}."}}).encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"{head}Connection: close\r\n\r\n".encode() + body


class Arrived:
    """A socket that is read without waiting: what has come of a request, and then that no more of it does.

    Attributes:
        data: what has come and was not read yet.
        late: the time in which more may come is over.
        ended: the client sends no more.
        behind_s: by how much the client accepts an answer later than it has to.
    """

    def __init__(self, inner: socket.socket, limits: Limits) -> None:
        self._inner, self._limits = inner, limits
        self.behind_s = 0.0
        self._is_tls = isinstance(inner, ssl.SSLSocket)
        self.data = bytearray()
        self.late = self.ended = False

    def receive(self, buffer: memoryview, *, keep: bool = True) -> int:
        """Take what has come; how many bytes that are. Of a request that begins, no more than tells what it is.

        Args:
            buffer: that it comes into, as much as there is room for.
            keep: for whoever reads it; or it is thrown away.
        """
        most = 0 if self.data or not keep else _FIRST_BYTES
        flags = 0 if keep or self._is_tls else _DISCARD
        try:
            self._inner.setblocking(False)
            count = self._inner.recv_into(buffer, most, flags)
        except _LATER:
            return 0
        except OSError:  # the connection is broken, or does not speak TLS
            count = 0
        if keep:
            self.data += buffer[:count]
        self.ended = not count
        return count

    def recv_into(self, buffer: Any, *_: int) -> int:
        """Read of what has come; a `TimeoutError` where that ends before the request does."""
        if not self.data and not self.ended:
            raise TimeoutError("timed out")
        count = min(len(buffer), len(self.data))
        buffer[:count] = self.data[:count]
        del self.data[:count]
        return count

    def send(self, data: bytes) -> int:
        """Send all of it; a `TimeoutError` where the client falls too far behind in accepting it.

        Only the time counts in which it is waited for: whoever makes an answer, or has to get a turn, may be slow.
        """
        rest = memoryview(data)
        while rest:
            piece = rest[:_PIECE_BYTES]
            try:
                sent = self.send_at_once(piece)
            except _LATER:
                sent = self._send_in_time(piece)
            self.behind_s = max(0.0, self.behind_s - sent / self._limits.write_bytes_per_s)
            rest = rest[sent:]
        return len(data)

    def _send_in_time(self, piece: memoryview) -> int:
        """Send what the client accepts of a piece, and wait for that; how many bytes it was."""
        left_s, began = self._limits.write_s - self.behind_s, time.monotonic()
        if left_s <= 0:
            raise TimeoutError("timed out")
        self._inner.settimeout(left_s)
        try:
            return self._inner.send(piece)
        finally:
            self.behind_s += time.monotonic() - began

    def send_at_once(self, data: bytes | memoryview) -> int:
        """Send what the client accepts without being waited for; how many bytes it was."""
        self._inner.setblocking(False)
        return self._inner.send(data)

    def shutdown(self, how: int) -> None:
        """Shut down; TLS stays around what is still sent, which `SSLSocket.shutdown` would let go without it."""
        socket.socket.shutdown(self._inner, how)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class Connection(HTTPConnection):
    """A connection that nobody waits for, and that ends so that a refused client can read why.

    Attributes:
        arrived: its socket.
        rude: whether it ends with something of a request unread.
        lingering: whether what still comes is thrown away: it was refused, and would not see why if it were closed.
        crowded: whether it is refused because all requests that are coming take too much memory together.
        seen: whether it was looked at: one that was not is new.
        since_s: when the request that is coming began, or it began to linger, by the monotonic clock.
    """

    RequestHandlerClass = Request

    def __init__(self, server: Any, sock: socket.socket, makefile: Any = MakeFile) -> None:
        self._limits: Limits = server.limits
        self._buffer: memoryview = server.buffer
        self.arrived = Arrived(sock, self._limits)
        self.rude = self.lingering = self.crowded = self.seen = False
        self.since_s = time.monotonic()
        self._looked = self._size = 0
        self._told = self._expects = False
        super().__init__(server, self.arrived, MakeFile)
        server.opened(self)

    def receive(self) -> int:
        """Take what has come, without waiting; how many bytes that are."""
        if not self.arrived.data:
            self.since_s = time.monotonic()
        return self.arrived.receive(self._buffer)

    def discard(self) -> bool:
        """Throw away what has come, without waiting; whether more may come."""
        for _ in range(_ROUNDS):
            if not self.arrived.receive(self._buffer, keep=False):
                break
        return not self.arrived.ended

    def is_ready(self) -> bool:
        """Tell whether a thread is to read the request: it has come whole, no more of it will, or it is refused."""
        arrived = self.arrived
        if arrived.data.startswith(b"\r\n"):  # behind the request before
            del arrived.data[:2]
        return bool(arrived.data) and (arrived.ended or arrived.late or self._is_whole())

    def _is_whole(self) -> bool:
        data = self.arrived.data
        if not self._size:
            end = data.find(END, max(0, self._looked - len(END)))
            if end < 0:
                begin, self._looked = max(0, self._looked - 1), len(data)
                return len(data) > self._limits.header_bytes + _LINE_BYTES or bool(_BARE_LF.search(data, begin))
            body_bytes = self._body_bytes(bytes(data[: end + 2]))
            self._told, self._size = body_bytes is not None, end + len(END) + (body_bytes or 0)
            self._expects = bool(_EXPECTS.search(data, 0, end + 2)) and not _OLD.match(data)
        return len(data) >= self._size

    def invite(self) -> None:
        """Tell a client to send the body of its request, if it waits for that; it is not waited for."""
        if self._expects:
            self._expects = False
            with suppress(OSError):
                self.arrived.send_at_once(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _body_bytes(self, head: bytes) -> int | None:
        """Return how many bytes to wait for; None where it is not told, or a strict reader refuses the head anyway."""
        said = [] if _CODED.search(head) else [int(digits) for digits in _SAID.findall(head)]
        return said[0] if len(said) == 1 and said[0] <= self._limits.body_bytes else None

    def refuse(self, answer: bytes) -> None:
        """Send an answer without reading the request or waiting for the client, and end; see `close`."""
        came_whole = self.is_ready() and self._told and len(self.arrived.data) == self._size
        self.rude = not came_whole  # else there is nothing to throw away
        with suppress(OSError):
            self.arrived.send_at_once(answer)
        self.close()

    def again(self) -> None:
        """Begin anew after an answer: what cheroot has read beyond the request is the beginning of the next one."""
        self.arrived.data[:0] = self._read_ahead()
        self.arrived.late = self._told = self._expects = False
        self.arrived.behind_s = 0.0
        self._looked = self._size = 0
        self.since_s = time.monotonic()

    def _read_ahead(self) -> bytes:
        return bytes(self.rfile.read(len(self.rfile.peek()))) if self.rfile.has_data() else b""

    def close(self) -> None:
        """End; what a refused client still sends is thrown away for a while, or it would not see the answer."""
        if self.rude:
            self.rude = False
            with suppress(OSError):
                self.arrived.shutdown(socket.SHUT_WR)
                self._read_ahead()
                self.arrived.data.clear()
                self.arrived.late = False
                self.lingering, self.since_s = True, time.monotonic()
                if self.server.watch(self):
                    return
        self.server.closed(self)
        self.arrived.data.clear()  # cheroot keeps a circle of objects, which holds it until the next collection
        with suppress(OSError):  # the client was faster
            super().close()
