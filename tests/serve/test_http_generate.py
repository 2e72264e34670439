"""Tokens as server-sent events: those of the library, ended by a client that goes away."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgefuse
from edgefuse.errors import BackendError
from edgefuse.runtime.generation.config import GenerationConfig
from edgefuse.runtime.generation.step import Token
from edgefuse.runtime.pipeline import Pipeline
from edgefuse.serve.http.limits import Limits
from edgefuse.serve.http.service import Http, Settings
from tests.decoders import LstmDecoder, generating, inputs_of
from tests.serve.test_http_openapi import hold
from tests.serve.web import Answered, ask, connect, exchange, form, post, serving


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generating")
    model = generating(LstmDecoder)
    edgefuse.export(model, model.spec, "onnx", out=folder / "lstm.edgefuse", cache=folder / "cache")
    return folder / "lstm.edgefuse"


@pytest.fixture(scope="module")
def service(bundle: Path) -> Iterator[Http]:
    with serving(bundle) as found:
        yield found


def given(seed: int) -> dict[str, Any]:
    return {name: np.asarray(value).tolist() for name, value in inputs_of(seed).items()}


def events(answer: Answered) -> list[tuple[str, Any]]:
    """Return the events of a stream by name, without comments."""
    found = []
    for block in answer.content.decode().split("\n\n"):
        if block.startswith("event: "):
            name, data = block.split("\n")
            found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


@pytest.mark.parametrize("config", [{}, {"max_new_tokens": 2}, {"do_sample": True, "seed": 3}, {"num_beams": 3}])
def test_the_tokens_are_those_of_the_library(service: Http, bundle: Path, config: dict[str, Any]) -> None:
    with edgefuse.load(bundle) as pipeline:
        generation = pipeline.generate(GenerationConfig(**config), **inputs_of(1))
        expected, digest = list(generation), pipeline.digest
    found = post(service.url, "/v1/generate", {"inputs": given(1), "generation": config})
    assert (found.status, found.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    *tokens, (last, end) = events(found)
    assert [(data["id"], data["logprob"]) for _, data in tokens] == [(one.id, one.logprob) for one in expected]
    assert (last, end["text"], end["tokens"], end["digest"]) == ("end", generation.text, len(expected), digest)
    assert 0 <= end["first_token_ms"] <= end["all_ms"]
    if "num_beams" not in config:
        assert "".join(data["text"] for _, data in tokens) == end["text"]


def test_how_tokens_are_chosen_may_be_a_part_of_a_form(service: Http) -> None:
    parts = {name: json.dumps(value) for name, value in given(1).items()}
    body, headers = form(parts | {"generation": '{"max_new_tokens": 1}'})
    assert events(ask(service.url, "POST", "/v1/generate", body, headers))[-1][1]["tokens"] == 1


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"num_beam": 4}, "Fix: did you mean num_beams"),
        ({"num_beams": 0}, "num_beams is out of range"),
        ({"num_beams": "many"}, "num_beams is out of range"),
        ({"max_new_tokens": 1000}, "expected at most"),
        ({"top_p": 0.5}, "has no effect"),
        ([], "the JSON of the request cannot be used"),
    ],
)
def test_wrong_settings_have_a_status_of_their_own(service: Http, config: object, sentence: str) -> None:
    found = post(service.url, "/v1/generate", {"inputs": given(1), "generation": config})
    assert (found.status, sentence in found.sentence) == (400, True)
    assert post(service.url, "/v1/generate", {"inputs": {}}).status == 400


@pytest.mark.parametrize("examples", [10, pytest.param(300, marks=pytest.mark.exhaustive)])
def test_drawn_requests_get_answers_that_are_described(service: Http, examples: int) -> None:
    hold(service.url, "/v1/generate", examples)


class Endless:
    """Makes tokens until it is closed."""

    def __init__(self, fails: bool = False) -> None:
        self.tokens: list[Token] = []
        self.text = ""
        self.closed = threading.Event()
        self._fails = fails

    def __enter__(self) -> Endless:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed.set()

    def __iter__(self) -> Iterator[Token]:
        while True:
            time.sleep(0.01)
            self.tokens.append(Token(1, -0.5))
            self.text += "é\n"
            yield self.tokens[-1]
            if self._fails:
                raise BackendError("a runtime failed")


@contextmanager
def endless(bundle: Path, monkeypatch: pytest.MonkeyPatch, *, fails: bool = False) -> Iterator[tuple[Http, Endless]]:
    made = Endless(fails)
    monkeypatch.setattr(Pipeline, "generate", lambda self, config, **raw: made)
    with serving(bundle, Settings(limits=Limits())) as service:
        yield service, made


def request() -> bytes:
    body = json.dumps({"inputs": given(1)}).encode()
    head = "POST /v1/generate HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: "
    return f"{head}{len(body)}\r\n\r\n".encode() + body


def test_a_client_that_goes_away_ends_it(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with endless(bundle, monkeypatch) as (service, made):
        with connect(service.url) as peer:
            peer.sendall(request())
            found = b""
            while b"event: token" not in found:
                found += peer.recv(1000)
            assert b'"text":"\xc3\xa9\\n"' in found  # a line end is escaped: an event stays one
            assert not made.closed.is_set()
        assert made.closed.wait(60)


def test_what_fails_on_the_way_ends_the_stream_with_an_error(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with endless(bundle, monkeypatch, fails=True) as (service, _):
        found = post(service.url, "/v1/generate", {"inputs": given(1)})
    assert [name for name, _ in events(found)] == ["token", "error"]
    assert events(found)[-1][1]["error"] == {"code": "internal_server_error", "message": "a runtime failed."}


def test_the_end_of_the_service_ends_it(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[bytes] = []
    with endless(bundle, monkeypatch) as (service, made):
        client = threading.Thread(target=lambda: found.append(exchange(service.url, request())))
        client.start()
        while not made.tokens:
            time.sleep(0.01)
        service.close(1.0)
        assert made.closed.wait(60)
        client.join()
    assert b'event: error\ndata: {"error":{"code":"service_unavailable"' in found[0]
