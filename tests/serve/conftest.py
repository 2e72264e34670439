"""The HTTP service of the tiny bundle on a real socket, and a client that sends what it is told to."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest

from edgefuse.runtime.live import Live
from edgefuse.serve.http.limits import Limits
from edgefuse.serve.http.service import HttpService
from edgefuse.serve.queue import Queue


class Answered(NamedTuple):
    """What came back."""

    status: int
    fields: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Client(NamedTuple):
    """Sends requests to a service."""

    service: HttpService
    queue: Queue
    live: Live

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.service.url)
        assert parts.hostname is not None
        assert parts.port is not None
        return parts.hostname, parts.port

    def ask(self, method: str, path: str, body: object = None, **fields: str) -> Answered:
        """Send a request; a body that is not bytes goes as JSON."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        headers = {name.replace("_", "-"): value for name, value in fields.items()}
        if data is not None:
            headers.setdefault("Content-Type", "application/json")
        connection = http.client.HTTPConnection(*self.address, timeout=30)
        try:
            connection.request(method, path, data, headers)
            answer = connection.getresponse()
            return Answered(answer.status, dict(answer.getheaders()), answer.read())
        finally:
            connection.close()

    def send(self, data: bytes) -> bytes:
        """Send bytes as they are, and return all that comes until the connection ends."""
        with socket.create_connection(self.address, timeout=30) as raw:
            raw.sendall(data)
            parts = []
            try:
                while part := raw.recv(65536):
                    parts.append(part)
            except ConnectionResetError:
                pass
            return b"".join(parts)

    @contextmanager
    def busy(self) -> Iterator[threading.Event]:
        """Keep the model from answering until the event is set that is given, or the block ends: also by an error."""
        begun, free = threading.Event(), threading.Event()

        def wait(_: object) -> None:
            begun.set()
            free.wait()

        done = self.queue.submit(wait)
        try:
            assert begun.wait(60)
            yield free
        finally:
            free.set()
            done.result(60)


@pytest.fixture
def serving(tiny_bundle: Path) -> Iterator[Callable[..., Client]]:
    """Start a service; takes `depth`, another bundle, the keywords of `HttpService`, and limits by their names."""
    with ExitStack() as stack:

        def start(depth: int = 8, workers: int = 1, token: str | None = None, **options: Any) -> Client:
            options.setdefault("threads", 4)  # starting one takes a while
            tls = options.pop("tls", None)
            live = stack.enter_context(Live(options.pop("bundle", tiny_bundle)))
            queue = Queue(live, depth, workers)
            stack.callback(queue.close)
            service = HttpService("127.0.0.1:0", queue, live, Limits(**options), token, tls)
            stack.enter_context(service)
            return Client(service, queue, live)

        yield start


@pytest.fixture
def motion() -> dict[str, Any]:
    """The body of a request that is right."""
    return {"inputs": {"motion": [[[0.5, 0.25, -1.0]] * 3], "text": "please stop"}}
