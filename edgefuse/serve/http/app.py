"""The endpoints, and what is answered to what cannot be."""

from __future__ import annotations

import io
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import flask
import msgspec
from werkzeug.exceptions import HTTPException, MisdirectedRequest, NotFound, TooManyRequests

from edgefuse.errors import InputError
from edgefuse.serve.http import access, faults, inputs, openapi
from edgefuse.serve.http.answers import Failure, Fault, Health, Model
from edgefuse.serve.http.calls import predict
from edgefuse.serve.http.events import Events
from edgefuse.serve.http.limits import TOO_MANY_BYTES, Limits
from edgefuse.serve.http.metrics import Metrics
from edgefuse.serve.queue import Place, Queue, Source

_log = logging.getLogger(__name__)
PAGE = Path(__file__).with_name("page")
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
"""Of the page's files: what a system says of them may be anything."""
_FLAGS = {None: False, "false": False, "true": True}
_FIELDS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "media-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Permissions-Policy": "camera=(self), microphone=(self)",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class _Request(flask.Request):
    """A request whose files stay in memory."""

    def _get_file_stream(self, *_: Any, **__: Any) -> IO[bytes]:
        return io.BytesIO()


class _Bodies:
    """The memory that the bodies of all requests may take together."""

    def __init__(self, limit: int) -> None:
        self._left, self._lock = limit, threading.Lock()

    @contextmanager
    def held(self, size: int) -> Iterator[None]:
        with self._lock:
            if size > self._left:
                raise TooManyRequests(TOO_MANY_BYTES)
            self._left -= size
        try:
            yield
        finally:
            with self._lock:
                self._left += size


class _Endpoints:
    """What is answered at each path."""

    def __init__(self, queue: Queue, source: Source, limits: Limits, metrics: Metrics, token: str | None) -> None:
        self._queue, self._source, self._limits, self._token = queue, source, limits, token
        self._bodies = _Bodies(max(limits.bodies_bytes, limits.body_bytes))
        self._metrics = metrics

    def bind(self, app: flask.Flask) -> None:
        """Put them into an application."""
        app.before_request(self._admit)
        app.after_request(self._finish)
        app.register_error_handler(Exception, self._refuse)
        app.post("/v1/predict")(self._predict)
        app.post("/v1/generate")(self._generate)
        app.get("/v1/model")(self._model)
        app.get("/healthz")(self._health)
        app.get("/metrics")(self._figures)
        app.get("/openapi.json")(self._description)
        app.get("/")(self._page)
        app.get("/page/<name>", endpoint="page")(self._page)

    def _admit(self) -> None:
        flask.g.began = time.perf_counter()
        request = flask.request
        if self._token is None and not access.is_of_this_host(request.headers.get("Host", "localhost")):
            raise MisdirectedRequest("Without a token, this service answers this machine under its own names alone.")
        if self._token is None or request.path == "/healthz" or request.endpoint in ("_page", "page"):
            return
        faults.check_token(self._token, request.headers.get("Authorization"))

    def _finish(self, response: flask.Response) -> flask.Response:
        response.headers.update(_FIELDS)
        response.headers.setdefault("Cache-Control", "no-store")  # files of the page are asked for again, by their tag
        if "began" in flask.g:
            rule = flask.request.url_rule
            took_s = time.perf_counter() - flask.g.began
            self._metrics.count(rule.rule if rule else "other", response.status_code, took_s)
        return response

    def _refuse(self, error: Exception) -> flask.Response:
        status, fields = faults.status(error)
        message = str(getattr(error, "description", None) or error)
        if status == 500:
            _log.error("a request ended by an error: %s", faults.where(error))
            message = faults.UNEXPECTED
        response = _json(Failure(error=Fault(status=status, message=message)), status)
        if isinstance(error, HTTPException):
            response.headers.extend((k, v) for k, v in error.get_headers() if k == "Allow")
        response.headers.update(fields)
        return response

    def _predict(self) -> flask.Response:
        flag = flask.request.args.get("explain")
        if flag not in _FLAGS:
            raise InputError("'explain' is neither true nor false", got=repr(flag))
        with self._asked() as (place, asked):
            return _json(predict(place, asked.raw, _FLAGS[flag], self._limits.answer_s))

    def _generate(self) -> flask.Response:
        with self._asked() as (place, asked):
            events = Events(place, asked, self._limits.answer_s)
        return flask.Response(events, mimetype="text/event-stream")

    @contextmanager
    def _asked(self) -> Iterator[tuple[Place, inputs.Asked]]:
        size = flask.request.content_length or 0
        with faults.panics_caught(), self._queue.place() as place, self._bodies.held(size):
            yield place, inputs.read(flask.request, self._source.pipeline.manifest.model, self._limits.values)

    def _model(self) -> flask.Response:
        pipeline = self._source.pipeline
        manifest = pipeline.manifest
        return _json(
            Model(
                digest=pipeline.digest,
                rung=pipeline.rung.name,
                rungs=tuple(rung.name for rung in manifest.rungs),
                generates=self._generates,
                model=manifest.model,
            )
        )

    @property
    def _generates(self) -> bool:
        return any(stage.role == "decoder" for stage in self._source.pipeline.manifest.stages)

    def _health(self) -> flask.Response:
        ready = not self._queue.draining
        return _json(Health(alive=True, ready=ready), 200 if ready else 503)

    def _figures(self) -> flask.Response:
        return flask.Response(self._metrics.text(), content_type="text/plain; version=0.0.4; charset=utf-8")

    def _description(self) -> flask.Response:
        model = self._source.pipeline.manifest.model
        return _json(openapi.describe(model, generates=self._generates, with_token=self._token is not None))

    def _page(self, name: str = "index.html") -> flask.Response:
        kind = _TYPES.get(Path(name).suffix)
        if kind is None:
            raise NotFound
        return flask.send_from_directory(PAGE, name, mimetype=kind)


def make_app(queue: Queue, source: Source, limits: Limits, metrics: Metrics, token: str | None = None) -> flask.Flask:
    """Return the WSGI application.

    Args:
        queue: in front of the pipeline.
        source: has the pipeline that answers.
        limits: of a client.
        metrics: count what is answered.
        token: that requests must have; if None, only this machine may ask.
    """
    app = flask.Flask("edgefuse.serve.http", static_folder=None, template_folder=None)
    app.request_class = _Request
    app.url_map.merge_slashes = False
    app.config.update(
        MAX_CONTENT_LENGTH=limits.body_bytes,
        MAX_FORM_MEMORY_SIZE=limits.body_bytes,
        MAX_FORM_PARTS=limits.parts,
        PROVIDE_AUTOMATIC_OPTIONS=False,
    )
    _Endpoints(queue, source, limits, metrics, token).bind(app)
    return app


def _json(value: object, status: int = 200) -> flask.Response:
    return flask.Response(msgspec.json.encode(value), status, mimetype="application/json")
