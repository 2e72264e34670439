"""A process with the bundle, which answers one request after the other.

The files of a bundle have a batch of one. So a batch of requests costs as much inference as the same requests alone,
and each gets the same answer, bit for bit: a graph that took several at a time would scale all of them by the largest
number among them, where it is quantized dynamically.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import closing
from io import BytesIO
from itertools import count
from typing import Any, NamedTuple

import msgspec
from werkzeug.test import EnvironBuilder
from werkzeug.wrappers import Response

from edgefuse.errors import EdgefuseError
from edgefuse.runtime.live import Live
from edgefuse.serve.http.answers import Failure, Fault
from edgefuse.serve.http.app import make_app
from edgefuse.serve.http.limits import Limits
from edgefuse.serve.http.metrics import Metrics
from edgefuse.serve.memory import give_back_large_blocks
from edgefuse.serve.queue import Queue
from edgefuse.serve.ray.options import Options
from edgefuse.serve.ray.reach import keep_to_node

_log = logging.getLogger(__name__)
BATCHES = 2
"""That a replica has at a time: it reads one while it answers the other."""
LOOKUPS = 1
"""That a replica has beside them: what needs no inference waits for none."""


class Asked(NamedTuple):
    """A request of HTTP, as it goes from process to process; path and query as WSGI has them.

    The path is decoded, but for slashes, which would be others.
    """

    method: str
    path: str
    query: str
    fields: dict[str, str]
    body: bytes


class Answered(NamedTuple):
    """Its answer."""

    status: int
    fields: dict[str, str]
    body: bytes


def asking(path: str, inputs: dict[str, object], token: str | None = None) -> Asked:
    """Return a request for an answer to inputs, for an application that has replicas of several bundles.

    Args:
        path: `/v1/predict` or `/v1/generate`.
        inputs: by modality, as JSON has them; bytes become base64.
        token: that the replicas want.
    """
    authorised = {"Authorization": f"Bearer {token}"} if token else {}
    fields = {"Content-Type": "application/json", "Host": "localhost"} | authorised
    return Asked("POST", path, "", fields, msgspec.json.encode({"inputs": inputs}))


class Replica:
    """Answers requests with a bundle; Ray makes one per process.

    Args:
        bundle: its path on this machine.
        digest: that it must have there, so that all replicas answer with the same one.
        options: how it is run.
        token: that requests must have; if None, they must name this machine.

    Raises:
        BundleError, BackendError, MissingExtraError, InputError: as for `edgefuse.load`.
    """

    def __init__(self, bundle: str, digest: str, options: Options, token: str | None = None) -> None:
        keep_to_node()
        give_back_large_blocks()
        self._live = Live(  # no features of a request are kept
            bundle, digest, rung=options.rung, backend=options.backend, threads=options.threads, cache=False
        )
        places = BATCHES * options.batch
        self._queue = Queue(self._live, places, deadline_s=options.answer_s)
        limits = Limits(
            body_bytes=options.body_bytes, bodies_bytes=places * options.body_bytes, answer_s=options.answer_s
        )
        self._app = make_app(self._queue, self._live, limits, Metrics(self._queue), token)
        self._answer_s, self._hung_s = options.answer_s, 2 * options.answer_s
        self._began: dict[int, float] = {}  # when the request began that each call is at
        self._numbers = count()

    async def answer(self, asked: Sequence[Asked]) -> list[Answered]:
        """Return the answers, in the order of the requests."""
        return await asyncio.to_thread(self._answer, asked)

    def _answer(self, asked: Sequence[Asked]) -> list[Answered]:
        answers, number = [], next(self._numbers)
        try:
            for one in asked:
                self._began[number] = time.monotonic()
                try:
                    answers.append(_called(self._app, one, self._answer_s))
                except Exception as error:  # noqa: BLE001 - one request must not take the answers of the others with it
                    _log.error("a request cannot be read: %s", type(error).__name__)
                    answers.append(fault(400, "This request cannot be read."))
        finally:  # here, since whoever waits for the call may be cancelled before it ends
            del self._began[number]
        return answers

    def check_health(self) -> None:
        """Tell Ray that this answers; an error has it put another replica in the place of this one.

        Raises:
            EdgefuseError: a call goes on for much longer than it may.
        """
        oldest = min(list(self._began.values()), default=time.monotonic())
        if time.monotonic() - oldest > self._hung_s:
            raise EdgefuseError("a request does not end", expected=f"an answer within {self._hung_s:g} s")

    def close(self) -> None:
        """End; the bundle is closed."""
        self._queue.close()
        self._live.close()


def fault(status: int, message: str, fields: dict[str, str] | None = None) -> Answered:
    """Return an answer that says what is wrong, as `edgefuse.serve.http` says it.

    Args:
        status: of HTTP.
        message: what is wrong, in a sentence.
        fields: further ones of the answer.
    """
    body = msgspec.json.encode(Failure(error=Fault(status=status, message=message)))
    return Answered(status, {"Content-Type": "application/json"} | (fields or {}), body)


def _called(app: Any, asked: Asked, answer_s: float) -> Answered:
    """Return what an application of WSGI answers; a stream is read to its end, or until nobody waits for it."""
    ends = time.monotonic() + answer_s
    builder = EnvironBuilder(  # what it is given as path and query it reads as a URL, a second time
        method=asked.method,
        headers=[*asked.fields.items()],
        input_stream=BytesIO(asked.body),
        content_length=len(asked.body),
        environ_overrides={"PATH_INFO": asked.path, "QUERY_STRING": asked.query},
    )
    try:
        response = Response.from_app(app, builder.get_environ())
    finally:
        builder.close()
    body = bytearray()
    with closing(response):
        for part in response.iter_encoded():
            body += part
            if time.monotonic() > ends:
                return fault(503, "The answer did not come in time.", {"Retry-After": "1"})
    return Answered(response.status_code, dict(response.headers.items()), bytes(body))
