"""What stands behind Ray's proxy: reads a request within bounds, admits it or refuses it at once, and answers it."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from typing import Any
from urllib.parse import unquote_to_bytes

from ray.exceptions import RayError, TaskCancelledError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge, RequestTimeout, TooManyRequests

from edgefuse.errors import EdgefuseError
from edgefuse.serve.http import faults
from edgefuse.serve.http.gate import INFERRING
from edgefuse.serve.http.limits import BODIES, TOO_MANY_BYTES, Limits
from edgefuse.serve.queue import Full, Pace
from edgefuse.serve.ray.options import Options
from edgefuse.serve.ray.proxy import PASSED_ON
from edgefuse.serve.ray.replica import Answered, Asked, fault
from edgefuse.serve.ray.replicas import Replicas

_log = logging.getLogger(__name__)
LOOKUPS = 32
"""Requests without inference that may wait or run at a time, beside those with it."""
_HOP = {"connection", "content-length"}
"""Fields that Ray's proxy writes itself; but for HEAD, which has the length of the body that it does not have."""
_READ_S = Limits.read_s
"""From the head of a request to its last byte."""
_SLASH = re.compile(b"%2F", re.IGNORECASE)


class Ingress:
    """Answers HTTP by the replicas of a bundle.

    Args:
        replicas: the deployment of `Replica`.
        options: with which it was deployed.
        token: that requests for inference must have before they take a place; replicas look at that of all requests.
    """

    def __init__(self, replicas: DeploymentHandle[Any], options: Options, token: str | None = None) -> None:
        self._replicas, self._options, self._token = Replicas(replicas, options), options, token
        self._held = self._lookups = self._bytes = 0
        self._pace = Pace()  # of the latest requests, with all that waited before them

    async def __call__(self, request: Request) -> Response:
        """Answer a request."""
        try:
            answered = await self._answered(request)
        except Exception as error:  # noqa: BLE001 - Ray would log its words, which may hold what a client sent
            answered = refusal(error)
        hop = _HOP - ({"content-length"} if request.method == "HEAD" else set())
        fields = {name: value for name, value in answered.fields.items() if name.lower() not in hop}
        return Response(answered.body, answered.status, fields)

    async def _answered(self, request: Request) -> Answered:
        asked = asked_by(request)
        if asked.path == "/metrics":
            return fault(404, "Figures are Ray's here: those of one replica say nothing of the others.")
        if asked.method == "POST" and asked.path in INFERRING:
            return await self._inferred(request, asked)
        return await self._looked_up(asked)

    async def _looked_up(self, asked: Asked) -> Answered:
        """Return the answer to a request that waits for no inference, whose body nobody reads."""
        if self._lookups >= LOOKUPS:
            raise TooManyRequests("This service answers as many requests as it takes at a time.")
        self._lookups += 1
        try:
            return await self._replicas.look_up(asked)
        finally:
            self._lookups -= 1

    async def _inferred(self, request: Request, asked: Asked) -> Answered:
        if self._token is not None:
            faults.check_token(self._token, asked.fields.get("Authorization"))
        if self._held >= self._options.depth:
            raise Full(self._held, self._pace.p50_s)
        self._held += 1
        began, body = time.monotonic(), bytearray()
        try:
            await self._read_in_time(request, body)
            answered = await self._replicas.ask(asked._replace(body=bytes(body)))
        finally:
            self._held -= 1
            self._bytes -= len(body)
        self._pace.add(time.monotonic() - began)
        return answered

    async def _read_in_time(self, request: Request, body: bytearray) -> None:
        """Read a request whole: who sends nothing must not keep a place.

        Raises:
            HTTPException: it is too large, or too slow.
        """
        try:
            await asyncio.wait_for(self._read(request, body), _READ_S)
        except asyncio.TimeoutError:
            raise RequestTimeout from None

    async def _read(self, request: Request, body: bytearray) -> None:
        async for part in request.stream():
            body += part
            self._bytes += len(part)
            if len(body) > self._options.body_bytes:
                raise RequestEntityTooLarge
            if self._bytes > BODIES * self._options.body_bytes:
                raise TooManyRequests(TOO_MANY_BYTES)


def asked_by(request: Request) -> Asked:
    """Return a request without its body.

    Its path is read once: Starlette's URL would be parsed, and decoded, a second time.
    """
    scope = request.scope
    parts = _SLASH.split(scope.get("raw_path") or scope["path"].encode())
    path = b"%2F".join(unquote_to_bytes(part) for part in parts).decode("latin-1")
    fields = {name: request.headers[name] for name in PASSED_ON if name in request.headers}
    return Asked(request.method, path, scope["query_string"].decode("latin-1"), fields, b"")


def refusal(error: Exception) -> Answered:
    """Return the answer to a request that ended with an error."""
    if isinstance(error, ClientDisconnect | TaskCancelledError):  # nobody will read it
        return fault(400, "The request ended before it was whole.")
    if isinstance(error, asyncio.TimeoutError):
        return fault(503, "The answer did not come in time.", {"Retry-After": "1"})
    if isinstance(error, HTTPException | EdgefuseError):
        status, fields = faults.status(error)
        return fault(status, str(getattr(error, "description", None) or error), fields)
    if isinstance(error, RayError | RayServeException):
        _log.error("the replicas do not answer: %s", type(error).__name__)
        return fault(503, "The replicas do not answer.", {"Retry-After": "1"})
    _log.error("a request ended by an error: %s", faults.where(error))
    return fault(500, faults.UNEXPECTED)
