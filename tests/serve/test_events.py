"""Tokens as server-sent events, and clients that go away in the middle of them."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import edgefuse
from edgefuse.runtime.generation.config import GenerationConfig
from edgefuse.runtime.generation.step import Token
from edgefuse.runtime.live import Live
from edgefuse.serve.http.limits import Limits
from edgefuse.serve.http.service import HttpService
from edgefuse.serve.queue import Queue
from tests.decoders import generating, inputs_of

Serving = Callable[..., Any]


def parsed(body: bytes) -> list[tuple[str, Any]]:
    """Return the events of a stream."""
    found = []
    for block in body.decode().removesuffix("\n\n").split("\n\n"):
        event, data = block.split("\n")
        found.append((event.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


class Endless:
    """A generation without end, which counts its tokens."""

    def __init__(self) -> None:
        self.made, self.text, self.closed = 0, "", threading.Event()

    def __iter__(self) -> Iterator[Token]:
        while True:
            self.made += 1
            self.text = "x" * 10_000
            time.sleep(0.001)
            yield Token(1, -float("inf"))


class Generating:
    """Has the pipeline of another source, with a generation that never ends."""

    def __init__(self, live: Live) -> None:
        self.live, self.generation = live, Endless()

    @property
    def pipeline(self) -> Any:
        return self

    @contextmanager
    def generate(self, *_: object, **__: object) -> Iterator[Endless]:
        yield self.generation
        self.generation.closed.set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.live.pipeline, name)


def test_a_client_that_goes_away_ends_its_generation(tiny_bundle: Path) -> None:
    body = json.dumps({"inputs": {"text": "stop"}}).encode()
    head = b"POST /v1/generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with Live(tiny_bundle) as live:
        source = Generating(live)
        queue = Queue(source, 2)
        with HttpService("127.0.0.1:0", queue, source, Limits(threads=2, write_s=1.0)) as service:
            port = int(service.url.rpartition(":")[2])
            for reads in (True, False):  # one that hangs up, and one that reads no more
                source.generation = generation = Endless()
                with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
                    client.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
                    assert client.recv(1000).startswith(b"HTTP/1.1 200")
                    if reads:
                        client.close()
                    assert generation.closed.wait(60)
            assert queue.drain(30)
        queue.close()


def test_tokens_come_as_the_pipeline_makes_them(tmp_path: Path) -> None:
    model = generating()
    edgefuse.export(model, model.spec, "onnx", out=tmp_path / "b.edgefuse", cache=tmp_path / "cache")
    raw = inputs_of(0)
    asked = {"inputs": {name: value.tolist() for name, value in raw.items()}, "config": {"max_new_tokens": 3}}
    with Live(tmp_path / "b.edgefuse") as live:
        with live.pipeline.generate(GenerationConfig(max_new_tokens=3), **raw) as generation:
            tokens = list(generation)
        queue = Queue(live, 2)
        with HttpService("127.0.0.1:0", queue, live, Limits(threads=2)) as service:
            from tests.serve.conftest import Client

            client = Client(service, queue, live)
            answer = client.ask("POST", "/v1/generate", asked)
            assert answer.fields["Content-Type"].startswith("text/event-stream")
            *made, (last, whole) = parsed(answer.body)
            assert [(name, data["id"]) for name, data in made] == [("token", token.id) for token in tokens]
            assert (last, whole["text"], whole["tokens"]) == ("done", generation.text, len(tokens))
            assert made[-1][1]["text"] == generation.text
            for bad in ({"num_beams": 0}, {"nothing": 1}):
                assert client.ask("POST", "/v1/generate", asked | {"config": bad}).status == 400
            assert client.ask("GET", "/v1/model").json["generates"]
            assert "/v1/generate" in client.ask("GET", "/openapi.json").json["paths"]
        queue.close()
