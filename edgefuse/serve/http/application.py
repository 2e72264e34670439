"""The endpoints, as a WSGI application of Flask."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from typing import TypeVar

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from edgefuse.errors import EdgefuseError, InputError, shown
from edgefuse.runtime.live import Live
from edgefuse.serve.http import answers, openapi
from edgefuse.serve.http.described import described
from edgefuse.serve.http.generation import Events, config_of, generates
from edgefuse.serve.http.inputs import FormRequest, raw_inputs
from edgefuse.serve.http.limits import Limits
from edgefuse.serve.http.metrics import CONTENT_TYPE, Metrics
from edgefuse.serve.http.refusal import JSON, Refusal, body, retry_after_s, status_of
from edgefuse.serve.http.token import Token
from edgefuse.serve.queue import Queue

_log = logging.getLogger(__name__)
_OPEN = frozenset({"/healthz"})
T = TypeVar("T")


@dataclass(frozen=True)
class Parts:
    """What the endpoints stand on.

    Attributes:
        live: has the pipeline that answers.
        queue: in front of it.
        limits: of the service.
        metrics: that are counted.
        token: that requests must carry, or None.
        given_up: is done when the service waits for answers no longer.
    """

    live: Live
    queue: Queue
    limits: Limits
    metrics: Metrics
    token: Token | None
    given_up: Future[None] = field(default_factory=Future)


class Application:
    """The endpoints of one service.

    Args:
        parts: that they stand on.

    Attributes:
        flask: the WSGI application.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self.flask = app = Flask("edgefuse.serve.http", static_folder=None)
        app.request_class = FormRequest
        app.config.update(
            MAX_CONTENT_LENGTH=parts.limits.body_bytes,
            MAX_FORM_MEMORY_SIZE=parts.limits.body_bytes,
            MAX_FORM_PARTS=parts.limits.parts,
            TRAP_HTTP_EXCEPTIONS=False,
            PROPAGATE_EXCEPTIONS=False,
            PROVIDE_AUTOMATIC_OPTIONS=False,
        )
        app.logger.disabled = True  # it would log the path of a request, and what an error quotes
        app.before_request(self._admit)
        app.after_request(self._finish)
        app.register_error_handler(HTTPException, self._of_http)
        app.register_error_handler(EdgefuseError, self._of_ours)
        app.register_error_handler(Exception, self._of_a_bug)
        app.post("/v1/predict")(self.predict)
        app.post("/v1/generate")(self.generate)
        app.get("/v1/model")(self.model)
        app.get("/healthz")(self.healthz)
        app.get("/metrics")(self.metrics)
        app.get("/openapi.json")(self.openapi)

    def predict(self) -> Response:
        """Answer with a prediction."""
        explain = _flag("explain")
        raw, generation = raw_inputs(request, self._parts.live.pipeline.manifest.model)
        if generation:
            raise InputError("a prediction takes no 'generation'", fix="send it to /v1/generate")
        call = partial(answers.predict, raw=raw, admitted_s=time.perf_counter(), explain=explain)
        answer = self._answered(self._parts.queue.submit(call))
        self._parts.metrics.time(answer.timing)
        return _json(answer)

    def generate(self) -> Response:
        """Answer with tokens as they are made."""
        model = self._parts.live.pipeline.manifest.model
        if not generates(model):
            raise Refusal(404, "this model makes no tokens one after the other", fix="send the request to /v1/predict")
        raw, generation = raw_inputs(request, model)
        config = config_of(generation)
        events = Events(self._parts.queue, config, raw, self._parts.metrics.token, self._parts.given_up.done)
        events.begin(self._parts.limits.answer_s)
        return Response(_Stream(events), mimetype="text/event-stream", headers={"X-Accel-Buffering": "no"})

    def model(self) -> Response:
        """Answer with what the model takes and gives."""
        return _json(described(self._parts.live.pipeline))

    def healthz(self) -> Response:
        """Answer whether requests are taken."""
        if self._parts.queue.draining:
            raise Refusal(503, "this service ends, and takes no more requests")
        return _json({"status": "ok"})

    def metrics(self) -> Response:
        """Answer with figures for Prometheus."""
        return Response(self._parts.metrics.text(), content_type=CONTENT_TYPE)

    def openapi(self) -> Response:
        """Answer with the description of all this."""
        return _json(openapi.description(self._parts.live.pipeline, self._parts.limits, self._parts.token is not None))

    def _answered(self, future: Future[T]) -> T:
        timeout_s = self._parts.limits.answer_s
        done, _ = wait((future, self._parts.given_up), timeout_s, FIRST_COMPLETED)
        if future in done:
            return future.result()
        future.cancel()
        raise Refusal(503, "there was no answer in time", expected=f"one in {timeout_s:g} s")

    def _admit(self) -> None:
        token = self._parts.token
        if token is not None and request.path not in _OPEN and not token.admits(request.headers.get("Authorization")):
            raise Refusal(401, "the request carries no valid token", expected="the header Authorization: Bearer TOKEN")

    def _finish(self, response: Response) -> Response:
        endpoint = request.url_rule.rule if request.url_rule is not None else "none"
        self._parts.metrics.count(endpoint, response.status_code)
        response.headers["Cache-Control"] = "no-store"
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response

    def _of_http(self, error: HTTPException) -> Response:
        """Answer with what Flask refuses, as JSON."""
        status = HTTPStatus(error.code or 500)
        known = _SENTENCES.get(status)
        sentence = known(self._parts.limits) if known else f"{error.description or status.phrase}"
        response = _refused(status, shown(sentence))
        for name, value in error.get_headers():
            if name.lower() not in ("content-type", "content-length"):
                response.headers[name] = value
        return response

    def _of_ours(self, error: EdgefuseError) -> Response:
        status = status_of(error)
        response = _refused(status, str(error))
        later = retry_after_s(error)
        if later is not None:
            response.headers["Retry-After"] = str(later)
        if status == HTTPStatus.UNAUTHORIZED:
            response.headers["WWW-Authenticate"] = 'Bearer realm="edgefuse"'
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR and self._parts.queue.draining:
            response.headers["Connection"] = "close"
        return response

    def _of_a_bug(self, error: Exception) -> Response:
        """Say nothing of it to the client, and nothing of the request to the log: its message may quote it."""
        where = "".join(traceback.format_tb(error.__traceback__))
        _log.error("a bug of ours, or of a runtime: %s\n%s", type(error).__name__, where)
        return _refused(500, "this cannot be answered: the log of the service says why.")


class _Stream:
    """An iterable of events that ends the generation when it is closed, whether or not it was begun."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._iterator: Iterator[bytes] = iter(events)

    def __iter__(self) -> Iterator[bytes]:
        return self._iterator

    def close(self) -> None:
        self._events.close()


_SENTENCES: dict[int, Callable[[Limits], str]] = {
    404: lambda limits: "there is no such endpoint. Fix: see /openapi.json.",
    405: lambda limits: "the endpoint does not take this method. Fix: see the header Allow.",
    413: lambda limits: (
        f"the request is too large: expected at most {limits.body_bytes} bytes and {limits.parts} parts."
    ),
}


def _flag(name: str) -> bool:
    given = request.args.getlist(name)
    if not given:
        return False
    if len(given) > 1 or given[0] not in ("true", "false"):
        got = repr(shown(given[0], 20)) if len(given) == 1 else f"{len(given)} values"
        raise InputError(f"the parameter '{name}' cannot be used", got=got, expected="true or false")
    return given[0] == "true"


def _json(value: object) -> Response:
    return Response(answers.encoded(value), content_type=JSON)


def _refused(status: int, sentence: str) -> Response:
    return Response(body(status, sentence), status=status, content_type=JSON)
