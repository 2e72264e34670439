"""What stands behind Ray's proxy: reads a request within bounds, admits it or refuses it at once, and answers it."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle
from starlette.requests import Request
from starlette.responses import Response
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge, RequestTimeout

from edgefuse.errors import EdgefuseError
from edgefuse.serve.http import faults
from edgefuse.serve.queue import Expired, Full, Pace
from edgefuse.serve.ray.options import Options
from edgefuse.serve.ray.replica import Answered, Asked, fault
from edgefuse.serve.ray.replicas import Replicas

_log = logging.getLogger(__name__)
_PASSED_ON = ("Host", "Authorization", "Content-Type")
_HOP = ("content-length", "connection")
"""Fields that Ray's proxy writes itself."""
_READ_S = 10.0
"""From the head of a request to its last byte, as `edgefuse.serve.http` has it."""


class Ingress:
    """Answers HTTP by the replicas of a bundle.

    Args:
        replicas: the deployment of `Replica`.
        options: with which it was deployed.
    """

    def __init__(self, replicas: DeploymentHandle[Any], options: Options) -> None:
        self._replicas, self._options = Replicas(replicas, options), options
        self._held = 0
        self._pace = Pace()  # of the latest requests, with all that waited before them

    async def __call__(self, request: Request) -> Response:
        """Answer a request."""
        try:
            answered = await self._answered(request)
        except (HTTPException, EdgefuseError) as error:
            status, fields = faults.status(error)
            answered = fault(status, str(getattr(error, "description", None) or error), fields)
        except (RayError, RayServeException) as error:
            _log.error("the replicas do not answer: %s", type(error).__name__)
            answered = fault(503, "The replicas do not answer.", {"Retry-After": "1"})
        fields = {name: value for name, value in answered.fields.items() if name.lower() not in _HOP}
        return Response(answered.body, answered.status, fields)

    async def _answered(self, request: Request) -> Answered:
        if request.url.path == "/metrics":
            return fault(404, "Figures are Ray's here: those of one replica say nothing of the others.")
        if self._held >= self._options.depth:
            raise Full(self._held, self._pace.p50_s)
        self._held += 1
        began = time.monotonic()
        try:
            answered = await self._replicas.ask(await self._read_in_time(request))
        except asyncio.TimeoutError as error:
            raise Expired(
                "the answer did not come in time", expected=f"at most {self._options.answer_s:g} s"
            ) from error
        finally:
            self._held -= 1
        self._pace.add(time.monotonic() - began)
        return answered

    async def _read_in_time(self, request: Request) -> Asked:
        """Return a request whole: who sends nothing must not keep a place.

        Raises:
            HTTPException: it is too large, or too slow.
        """
        try:
            return await asyncio.wait_for(self._read(request), _READ_S)
        except asyncio.TimeoutError:
            raise RequestTimeout from None

    async def _read(self, request: Request) -> Asked:
        """Return a request whole.

        Raises:
            HTTPException: it is too large.
        """
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > self._options.body_bytes:
                raise RequestEntityTooLarge
        fields = {name: request.headers[name] for name in _PASSED_ON if name in request.headers}
        return Asked(request.method, request.url.path, request.url.query, fields, bytes(body))
