"""The tiny bundle behind HTTP, and clients of it: an ordinary one, and a bare socket."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from edgefuse.runtime.live import Live
from edgefuse.serve.http.service import Http, Settings
from edgefuse.serve.queue import Queue

TIMEOUT_S = 60
MOTION = [[[0.5, -1.0, 2.0], [1.0, 0.0, 0.25]]]


@dataclass(frozen=True)
class Answered:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.content)

    @property
    def sentence(self) -> str:
        """What an error says."""
        found = self.json["error"]["message"]
        assert isinstance(found, str)
        return found


@contextmanager
def serving(
    bundle: Path, settings: Settings | None = None, *, depth: int = 16, workers: int = 2, host: str = "127.0.0.1"
) -> Iterator[Http]:
    """Serve a bundle at a free port within the block."""
    with Live(bundle) as live:
        queue = Queue(live, depth=depth, workers=workers)
        with Http(host, 0, queue, live, settings) as service:
            yield service
        queue.close()


def ask(
    url: str, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
) -> Answered:
    """Send a request over a connection of its own."""
    connection = HTTPConnection(urlsplit(url).netloc, timeout=TIMEOUT_S)
    try:
        connection.request(method, path, body, dict(headers or {}))
        response = connection.getresponse()
        names = {name.lower(): value for name, value in response.getheaders()}
        return Answered(response.status, names, response.read())
    finally:
        connection.close()


def post(url: str, path: str, value: object, headers: Mapping[str, str] | None = None) -> Answered:
    """Send JSON."""
    return ask(url, "POST", path, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})


def form(parts: Mapping[str, str | bytes]) -> tuple[bytes, dict[str, str]]:
    """Return a form's body and headers: strings are fields, bytes are files."""
    lines = b""
    for name, value in parts.items():
        file = '; filename="a"' if isinstance(value, bytes) else ""
        data = value if isinstance(value, bytes) else value.encode()
        lines += f'--part\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode() + data + b"\r\n"
    return lines + b"--part--\r\n", {"Content-Type": "multipart/form-data; boundary=part"}


def connect(url: str) -> socket.socket:
    """Return a bare socket to the service."""
    where = urlsplit(url)
    assert where.hostname is not None
    assert where.port is not None
    return socket.create_connection((where.hostname, where.port), timeout=TIMEOUT_S)


def exchange(url: str, data: bytes) -> bytes:
    """Send bytes as they are, and return all that comes until the service closes the connection."""
    with connect(url) as peer:
        peer.sendall(data)
        return rest(peer)


def rest(peer: socket.socket) -> bytes:
    """Return all that comes until the service closes the connection."""
    found = b""
    while True:
        try:
            data = peer.recv(65536)
        except ConnectionResetError:
            return found
        if not data:
            return found
        found += data
