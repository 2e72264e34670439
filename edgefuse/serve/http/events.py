"""Tokens as server-sent events (WHATWG HTML, section 9.2).

The queue's thread makes the tokens, the connection's sends them: a client that reads slowly holds up nobody else, and
one that goes away ends the generation before its next token.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from queue import Empty, SimpleQueue
from typing import TypeAlias

import msgspec

from edgefuse.errors import EdgefuseError
from edgefuse.runtime.pipeline import Pipeline
from edgefuse.serve.http import faults
from edgefuse.serve.http.answers import Failure, Fault, Made, Timing, Whole
from edgefuse.serve.http.calls import finite
from edgefuse.serve.http.inputs import Asked
from edgefuse.serve.queue import Expired, Place

_log = logging.getLogger(__name__)
_Event: TypeAlias = Made | Whole | Failure | BaseException


class Events(Iterator[bytes]):
    """The events of one generation; closing it ends the generation.

    Args:
        place: in the queue in front of the pipeline.
        asked: inputs, and how tokens are chosen.
        answer_s: seconds until the first token, and from each to the next one.

    Raises:
        InputError, MissingExtraError, BackendError: as for `Pipeline.generate`, before the first token.
        Draining, Expired: as for the queue.
    """

    def __init__(self, place: Place, asked: Asked, answer_s: float) -> None:
        self._made: SimpleQueue[_Event] = SimpleQueue()
        self._given_up = threading.Event()
        self._answer_s, self._asked_at = answer_s, time.perf_counter()
        self._future = place.submit(lambda pipeline: self._generate(pipeline, asked))
        self._future.add_done_callback(self._ended)
        self._over = False
        self._next: _Event | None = self._wait()
        if isinstance(self._next, BaseException):
            raise self._next

    def __next__(self) -> bytes:
        if self._over:
            raise StopIteration
        event, self._next = self._next or self._wait(), None
        if isinstance(event, BaseException):  # the status was sent long ago
            event = Failure(error=Fault(status=500, message=_told(event)))
        self._over = not isinstance(event, Made)
        name = "token" if isinstance(event, Made) else "done" if isinstance(event, Whole) else "error"
        return b"event: %s\ndata: %s\n\n" % (name.encode(), msgspec.json.encode(event))

    def close(self) -> None:
        """Make no more tokens."""
        self._given_up.set()
        self._future.cancel()

    def _wait(self) -> _Event:
        try:
            return self._made.get(timeout=self._answer_s)
        except Empty:
            self.close()
            return Expired("the next token did not come in time", expected=f"at most {self._answer_s:g} s")

    def _ended(self, future: object) -> None:
        """Tell of an error, also one of the queue."""
        if not self._future.cancelled() and (error := self._future.exception()) is not None:
            self._made.put(error)

    def _generate(self, pipeline: Pipeline, asked: Asked) -> None:
        began, count = time.perf_counter(), 0
        with pipeline.generate(asked.config, **asked.raw) as generation:
            for token in generation:
                if self._given_up.is_set():
                    return
                count += 1
                self._made.put(Made(id=token.id, logprob=finite(token.logprob), text=generation.text))
            timing = Timing(
                queued_ms=1e3 * (began - self._asked_at),
                preprocess_ms=None,
                infer_ms=1e3 * (time.perf_counter() - began),
            )
            self._made.put(
                Whole(
                    rung=pipeline.rung.name,
                    digest=pipeline.digest,
                    present=tuple(name for name in pipeline.preprocessors if name in asked.raw),
                    text=generation.text,
                    tokens=count,
                    timing=timing,
                )
            )


def _told(error: BaseException) -> str:
    """Return what is said of an error in the middle of a generation, and log one that is not ours."""
    if isinstance(error, EdgefuseError):
        return str(error)
    _log.error("a generation ended by an error: %s", faults.where(error))
    return faults.UNEXPECTED
