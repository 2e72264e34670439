"""Tokens as server-sent events: one for each token as it is made, and one at the end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from difflib import get_close_matches
from queue import Empty, SimpleQueue
from typing import Any

import msgspec

from edgefuse.bundle.spec import ModelSpec, TokensOutput
from edgefuse.errors import EdgefuseError, InputError, shown
from edgefuse.runtime.generation.config import GenerationConfig
from edgefuse.runtime.pipeline import Pipeline
from edgefuse.serve.http.answers import encoded
from edgefuse.serve.http.refusal import ErrorAnswer, ErrorDetail, Refusal
from edgefuse.serve.queue import Queue

_PAUSE_S = 0.5
_COMMENT = b":\n\n"


class TokenEvent(msgspec.Struct, frozen=True):
    """The data of an event `token`.

    Attributes:
        id: of the token.
        logprob: its log probability.
        text: what it adds to the text.
    """

    id: int
    logprob: float
    text: str


class EndEvent(msgspec.Struct, frozen=True):
    """The data of the event `end`.

    Attributes:
        text: all of it.
        tokens: how many were made.
        rung: the operating point that answered.
        digest: of the bundle that answered.
        queued_ms: until it was begun.
        first_token_ms: from there to the first token.
        all_ms: from there to the last one.
    """

    text: str
    tokens: int
    rung: str
    digest: str
    queued_ms: float
    first_token_ms: float
    all_ms: float


def generates(model: ModelSpec) -> bool:
    """Tell whether a model makes tokens one after the other."""
    return any(isinstance(output, TokensOutput) and output.start is not None for output in model.outputs)


def config_of(given: Mapping[str, Any]) -> GenerationConfig:
    """Return how tokens are chosen.

    Raises:
        InputError: there is no such setting, or its value is out of range.
    """
    known = list(GenerationConfig.__dataclass_fields__)
    unknown = next((name for name in given if name not in known), None)
    if unknown is not None:
        close = get_close_matches(unknown, known, n=1)
        raise InputError(
            f"generation has no setting '{shown(unknown, 40)}'",
            expected=" or ".join(known),
            fix=f"did you mean {close[0]}" if close else None,
        )
    return GenerationConfig(**given)


class Events:
    """What comes of one request: its events as they are made, in a thread of the queue.

    Args:
        queue: in front of the model.
        config: how tokens are chosen.
        raw: inputs by modality.
        made: is called at each token.
        ended: tells whether the service waits no longer.

    Raises:
        Full, Draining: as for `Queue.submit`.
    """

    def __init__(
        self,
        queue: Queue,
        config: GenerationConfig,
        raw: Mapping[str, object],
        made: Callable[[], object],
        ended: Callable[[], bool],
    ) -> None:
        self._parts: SimpleQueue[TokenEvent | None] = SimpleQueue()
        self._given_up = threading.Event()
        self._config, self._raw, self._made, self._ended = config, raw, made, ended
        self._admitted_s = time.perf_counter()
        self._end: Future[EndEvent] = queue.submit(self._generate)
        self._end.add_done_callback(lambda _: self._parts.put(None))
        self._first: TokenEvent | None = None
        self._next: TokenEvent | None = None

    def begin(self, timeout_s: float) -> None:
        """Wait for the first token, so that an input that is wrong has a status of its own.

        Raises:
            EdgefuseError: as for `Pipeline.generate`, or there is none in time.
        """
        until = time.monotonic() + timeout_s
        while True:
            try:
                self._first = self._parts.get(timeout=_PAUSE_S)
                break
            except Empty:
                if self._ended() or time.monotonic() > until:
                    self.close()
                    raise Refusal(503, "there was no token in time", expected=f"one in {timeout_s:g} s") from None
        if self._first is None:
            self._end.result()

    def __iter__(self) -> Iterator[bytes]:
        try:
            part = self._first
            while part is not None:
                yield event("token", part)
                yield from self._waited()
                part = self._next
            yield self._last()
        finally:
            self.close()

    def _waited(self) -> Iterator[bytes]:
        """Wait for the next token; a comment now and then finds out whether somebody still reads."""
        while not self._ended():
            try:
                self._next = self._parts.get(timeout=_PAUSE_S)
                return
            except Empty:
                yield _COMMENT
        self._next = None

    def close(self) -> None:
        """Make no more tokens: nobody reads them."""
        self._given_up.set()
        self._end.cancel()

    def _last(self) -> bytes:
        if not self._end.done():
            return _error("service_unavailable", "the service ends.")
        try:
            return event("end", self._end.result())
        except EdgefuseError as error:
            return _error("internal_server_error", str(error))

    def _generate(self, pipeline: Pipeline) -> EndEvent:
        """Make the tokens; what the queue calls."""
        began = time.perf_counter()
        first = 0.0
        text = ""
        with pipeline.generate(self._config, **self._raw) as generation:
            for token in generation:
                first = first or time.perf_counter()
                before, text = text, generation.text
                added = text[len(before) :] if text.startswith(before) else text
                self._parts.put(TokenEvent(token.id, token.logprob, added))
                self._made()
                if self._given_up.is_set():
                    break
        ended = time.perf_counter()
        return EndEvent(
            text=text,
            tokens=len(generation.tokens),
            rung=pipeline.rung.name,
            digest=pipeline.digest,
            queued_ms=1e3 * (began - self._admitted_s),
            first_token_ms=1e3 * ((first or ended) - began),
            all_ms=1e3 * (ended - began),
        )


def _error(code: str, sentence: str) -> bytes:
    return event("error", ErrorAnswer(ErrorDetail(code, sentence)))


def event(name: str, data: object) -> bytes:
    """Return a server-sent event (HTML Living Standard, 9.2); JSON has no line ends."""
    return b"event: " + name.encode() + b"\ndata: " + encoded(data) + b"\n\n"
