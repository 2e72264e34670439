"""A runtime that panics: what it raises is no `Exception`, and its request is answered all the same."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest
from wyoming.intent import Recognize

from edgefuse.bundle.reader import open_bundle
from edgefuse.runtime.generation.step import Token
from edgefuse.runtime.live import Live
from edgefuse.runtime.pipeline import Pipeline
from edgefuse.serve.http import inputs
from edgefuse.serve.http.limits import Limits
from edgefuse.serve.http.service import HttpService
from edgefuse.serve.queue import Queue
from edgefuse.serve.ray.options import Options
from edgefuse.serve.ray.replica import Replica, asking
from tests.serve import test_ovos, voice
from tests.serve.conftest import Client
from tests.serve.test_events import parsed

UNEXPECTED = "An error of this service; its log says which."
SECRET = "the code is 4711"
INPUTS = {"motion": [[[0.5, 0.25, -1.0]] * 3], "text": "please stop"}


class PanicException(BaseException):
    """Stands for what a library in Rust raises, whose class cannot be imported."""


def panic(*_: object, **__: object) -> NoReturn:
    raise PanicException(SECRET)


WHERE = f"PanicException (test_panics.py:{panic.__code__.co_firstlineno + 1})"


@pytest.mark.parametrize(("owner", "name"), [(Pipeline, "infer"), (Pipeline, "preprocess"), (inputs, "_parsed")])
def test_a_panic_is_answered_and_the_next_request_too(
    serving: Callable[..., Client],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    owner: object,
    name: str,
) -> None:
    client = serving(depth=1, threads=1)
    with monkeypatch.context() as patch, caplog.at_level(logging.INFO):
        patch.setattr(owner, name, panic)
        for _ in range(3):  # neither a place in the queue nor a thread is lost
            answer = client.ask("POST", "/v1/predict", {"inputs": INPUTS})
            assert (answer.status, answer.json) == (500, {"error": {"status": 500, "message": UNEXPECTED}})
    assert client.ask("POST", "/v1/predict", {"inputs": INPUTS}).status == 200
    assert caplog.messages == [f"a request ended by an error: {WHERE}"] * 3


@pytest.mark.parametrize("kind", [MemoryError, RecursionError])
def test_what_python_itself_runs_out_of_is_answered(
    serving: Callable[..., Client], monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    def exhausted(*_: object) -> NoReturn:
        raise kind

    client = serving(depth=1, threads=1)
    with monkeypatch.context() as patch:
        patch.setattr(Pipeline, "infer", exhausted)
        assert client.ask("POST", "/v1/predict", {"inputs": INPUTS}).status == 500
    assert client.ask("POST", "/v1/predict", {"inputs": INPUTS}).status == 200


class Generating:
    """Has the pipeline of another source, which makes some tokens and panics."""

    text = "ab"

    def __init__(self, live: Live, tokens: int) -> None:
        self._live, self._tokens = live, tokens

    @property
    def pipeline(self) -> Any:
        return self

    @contextmanager
    def generate(self, *_: object, **__: object) -> Iterator[Any]:
        yield self

    def __iter__(self) -> Iterator[Token]:
        yield from [Token(1, -0.5)] * self._tokens
        panic()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._live.pipeline, name)


@pytest.mark.parametrize("tokens", [0, 2])
def test_a_panic_ends_a_generation_with_an_error(
    tiny_bundle: Path, caplog: pytest.LogCaptureFixture, tokens: int
) -> None:
    with (
        Live(tiny_bundle) as live,
        closing(Queue(Generating(live, tokens), 1)) as queue,
        HttpService("127.0.0.1:0", queue, live, Limits(threads=2)) as service,
        caplog.at_level(logging.INFO),
    ):
        answer = Client(service, queue, live).ask("POST", "/v1/generate", {"inputs": INPUTS})
    failure = {"error": {"status": 500, "message": UNEXPECTED}}
    if tokens:
        assert [name for name, _ in parsed(answer.body)] == ["token", "token", "error"]
        assert parsed(answer.body)[-1][1] == failure
    else:
        assert (answer.status, answer.json) == (500, failure)
    what = "generation" if tokens else "request"
    assert caplog.messages == [f"a {what} ended by an error: {WHERE}"]


def test_a_panic_in_a_replica_is_the_answer_to_its_request_alone(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    infer, calls = Pipeline.infer, iter((False, True, False))

    def second(*given: Any) -> Any:
        return panic() if next(calls) else infer(*given)

    monkeypatch.setattr(Pipeline, "infer", second)
    with open_bundle(tiny_bundle) as bundle:
        digest = bundle.digest
    with closing(Replica(str(tiny_bundle), digest, Options())) as replica:
        answers = replica._answer([asking("/v1/predict", dict(INPUTS))] * 3)
    assert [one.status for one in answers] == [200, 500, 200]
    assert json.loads(answers[1].body)["error"]["message"] == UNEXPECTED


def test_a_voice_assistant_is_answered_after_a_panic_in_the_queue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with voice.serving(voice.intents(tmp_path / "intents.edgefuse")) as service:
        with monkeypatch.context() as patch:
            patch.setattr(Pipeline, "infer", panic)
            (error,) = voice.asked(service.uri, Recognize("go").event())
        (intent,) = voice.asked(service.uri, Recognize("go").event())
    assert ((error.type, error.data["code"]), intent.type) == (("error", "failed"), "intent")
    assert "PanicException" in caplog.text
    assert SECRET not in caplog.text


def test_an_assistant_goes_on_after_a_panic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    panics = """
from edgefuse.serve import ovos
class PanicException(BaseException): pass
def panic(*_): raise PanicException("sesame")
ovos.recognise = panic
"""
    monkeypatch.setattr(test_ovos, "ASSISTANT", panics + test_ovos.ASSISTANT)
    bundle = voice.intents(tmp_path / "intents.edgefuse")
    found, written = test_ovos.assistant(tmp_path, {"bundle": str(bundle)}, ["stop"])
    assert found["answers"] == [[["stop"], {"session": {"lang": "en"}}]]
    assert "edgefuse-intent tells nothing of an utterance: PanicException" in written
    assert "sesame" not in written
