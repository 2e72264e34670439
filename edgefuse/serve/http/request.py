"""A request that has come whole, as cheroot reads and answers it."""

from __future__ import annotations

import contextlib
from typing import Any

from cheroot.server import HeaderReader, HTTPRequest

from edgefuse.serve.http.refusal import JSON, body


class _Headers(HeaderReader):  # type: ignore[misc]
    """Leaves out what is done with already, and names that a WSGI application would take for others."""

    def _allow_header(self, name: bytes) -> bool:
        return name != b"Expect" and b"_" not in name


class Request(HTTPRequest):  # type: ignore[misc]
    """Answers with JSON what cheroot itself refuses."""

    header_reader = _Headers()

    def simple_response(self, status: Any, msg: str = "") -> None:
        """Write a short answer and end the connection."""
        content = body(int(status[:3]), msg or f"{status}.")
        lines = (f"HTTP/1.1 {status}", f"Content-Type: {JSON}", f"Content-Length: {len(content)}", "Connection: close")
        self.close_connection = True
        with contextlib.suppress(OSError):  # the peer is gone
            self.conn.wfile.write("\r\n".join(lines).encode() + b"\r\n\r\n" + content)
