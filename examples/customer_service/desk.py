"""Customer service: text, speech and a picture become a class and a reply, each from a model of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from ray import serve
from ray.serve import Application
from ray.serve.handle import DeploymentHandle
from starlette.requests import Request
from starlette.responses import Response
from werkzeug.exceptions import RequestTimeout

from edgefuse.bundle.reader import open_bundle
from edgefuse.bundle.spec import ClassOutput, TokensOutput
from edgefuse.errors import InputError
from edgefuse.serve.ray.application import LOGGING, replicated
from edgefuse.serve.ray.ingress import refusal
from edgefuse.serve.ray.options import Options
from edgefuse.serve.ray.replica import Answered, asking, fault
from edgefuse.serve.ray.replicas import Replicas

_MOST_BYTES = 4 << 20
_READ_S = 10.0


class Desk:
    """Asks both models at a time, and answers `{"class", "score", "reply"}`.

    Args:
        classes: the deployment of a bundle with an output of classes.
        replies: the deployment of a bundle that makes words.
        options: with which both were deployed.
    """

    def __init__(self, classes: DeploymentHandle[Any], replies: DeploymentHandle[Any], options: Options) -> None:
        self._classes, self._replies = Replicas(classes, options), Replicas(replies, options)
        self._left = options.depth

    async def __call__(self, request: Request) -> Response:
        """Answer a request: JSON as `edgefuse serve` takes it."""
        if self._left <= 0:
            return sent(fault(429, "The desk has as much to do as it takes.", {"Retry-After": "1"}))
        self._left -= 1
        try:
            return sent(await self._answered(request))
        except Exception as error:  # noqa: BLE001 - what is wrong is told, and not logged with what a client sent
            return sent(refusal(error))
        finally:
            self._left += 1

    async def _answered(self, request: Request) -> Answered:
        if int(request.headers.get("Content-Length") or _MOST_BYTES + 1) > _MOST_BYTES:
            return fault(413, f"A request says its length, at most {_MOST_BYTES} bytes.")
        try:
            body = await asyncio.wait_for(request.body(), _READ_S)
        except asyncio.TimeoutError:
            raise RequestTimeout from None
        try:
            inputs = msgspec.json.decode(body, type=dict[str, dict[str, Any]])["inputs"]
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, KeyError):
            return fault(400, 'The body is not JSON as in {"inputs": {"text": "…"}}.')
        classed, replied = await asyncio.gather(
            self._classes.ask(asking("/v1/predict", inputs)), self._replies.ask(asking("/v1/generate", inputs))
        )
        for answered in (classed, replied):
            if answered.status != 200:
                return answered
        return Answered(200, {"Content-Type": "application/json"}, msgspec.json.encode(joined(classed, replied)))


def joined(classed: Answered, replied: Answered) -> Mapping[str, object]:
    """Return the class of one answer and the reply of the other."""
    found = msgspec.json.decode(classed.body)
    return {"class": found["label"], "score": found["score"], "reply": reply(replied.body)}


def reply(events: bytes) -> str:
    """Return the whole text that the events of a generation end with."""
    last = events.rstrip().rpartition(b"event: done\ndata: ")[2]
    text: str = msgspec.json.decode(last)["text"]
    return text


def sent(answered: Answered) -> Response:
    """Return an answer as Ray's proxy takes it."""
    return Response(answered.body, answered.status, answered.fields)


def desk(classes: Path, replies: Path, options: Options) -> Application:
    """Return the application.

    Args:
        classes: the bundle that names the class.
        replies: the bundle that makes the reply.
        options: of the replicas of each.

    Raises:
        BundleError: one of them cannot be read.
        InputError: it does something else.
    """
    _check(classes, replies)
    deployed = serve.deployment(
        max_ongoing_requests=2 * options.depth, ray_actor_options={"num_cpus": 0}, logging_config=LOGGING
    )
    return deployed(Desk).bind(
        replicated(classes, options, name="classes"), replicated(replies, options, name="replies"), options
    )


def _check(classes: Path, replies: Path) -> None:
    """Refuse bundles in another order, or of other models, before any process is started for them."""
    with open_bundle(classes) as one, open_bundle(replies) as other:
        named, made = one.manifest.model.outputs, other.manifest.model.outputs
    fix = "name the bundle of classes first, and then that of replies"
    if not any(isinstance(output, ClassOutput) for output in named):
        raise InputError(f"the bundle {classes} names no class", got=", ".join(one.name for one in named), fix=fix)
    if not any(isinstance(output, TokensOutput) and output.start is not None for output in made):
        raise InputError(f"the bundle {replies} makes no reply", got=", ".join(one.name for one in made), fix=fix)
