"""All replicas as one that answers: requests are handed over together, and again where a replica died.

A request that is handed over to a replica is lost with it: Ray's handle raises `ActorDiedError`, since a call could
have done something. Ours does nothing but answer, so it is asked again of another replica. One that brings down every
replica that it comes to is given up after three, and those that were handed over with it are asked alone.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from contextvars import Context
from typing import Any, NamedTuple

from ray.exceptions import ActorDiedError, RayActorError
from ray.serve.handle import DeploymentHandle

from edgefuse.serve.queue import Pace
from edgefuse.serve.ray.options import Options
from edgefuse.serve.ray.reach import keep_to_node
from edgefuse.serve.ray.replica import BATCHES, Answered, Asked, fault

_log = logging.getLogger(__name__)
_DEATHS = 3
"""Of replicas, with one and the same request, before it is given up."""
_PAUSE_S = 0.05
_EARLY_S = 1e-3  # a timer rounds
_TOGETHER_S = 0.1
"""That the first request of a batch waits for the last one, about: a call saves some milliseconds, not more."""


class _Waiting(NamedTuple):
    asked: Asked
    answered: asyncio.Future[Answered]
    due_s: float


class Replicas:
    """Answers requests by the replicas of a bundle.

    Batches are made when a replica takes one, of all that waits then. (`serve.batch` makes them when requests come, and
    lets the batches wait: what does not come in the same moment is never together.)

    Args:
        handle: of the deployment of `Replica`.
        options: with which it was deployed.
    """

    def __init__(self, handle: DeploymentHandle[Any], options: Options) -> None:
        keep_to_node()
        self._handle = handle
        self._answer_s, self._wait_s = options.answer_s, options.wait_ms / 1e3
        self._batch, self._most_calls = options.batch, BATCHES * options.replicas
        self._waiting: deque[_Waiting] = deque()
        self._calls: set[asyncio.Task[None]] = set()
        self._pace = Pace()  # of one request of a call

    async def ask(self, asked: Asked) -> Answered:
        """Return the answer to a request.

        Raises:
            TimeoutError: it did not come in time.
        """
        loop = asyncio.get_running_loop()
        waiting = _Waiting(asked, loop.create_future(), time.monotonic() + self._wait_s)
        self._waiting.append(waiting)
        self._begin()
        if self._wait_s:
            loop.call_later(self._wait_s + _EARLY_S, self._begin)
        return await asyncio.wait_for(waiting.answered, self._answer_s)

    async def look_up(self, asked: Asked) -> Answered:
        """Return the answer to a request that needs no inference: alone, and beside those that do.

        Raises:
            TimeoutError: it did not come in time.
        """
        (answered,) = await asyncio.wait_for(self._hand_over([asked]), self._answer_s)
        return answered

    def _begin(self) -> None:
        """Hand over what waits, as far as replicas take it."""
        while len(self._calls) < self._most_calls and (together := self._next()):
            # Of no request's context: Ray ends what belongs to one whose client went away.
            call: asyncio.Task[None] = Context().run(asyncio.ensure_future, self._call(together))
            self._calls.add(call)
            call.add_done_callback(self._ended)

    def _ended(self, call: asyncio.Task[None]) -> None:
        self._calls.discard(call)
        self._begin()

    def _next(self) -> list[_Waiting]:
        """Return the requests of the next call; none where none waits, or where others may come in time."""
        self._waiting = deque(one for one in self._waiting if not one.answered.done())  # the others were given up
        most = max(1, min(self._batch, int(_TOGETHER_S / max(self._pace.p50_s, 1e-6))))
        if len(self._waiting) < most and self._wait_s and self._waiting and time.monotonic() < self._waiting[0].due_s:
            return []
        return [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]

    async def _call(self, together: list[_Waiting]) -> None:
        began = time.monotonic()
        try:
            answers = await self._hand_over([one.asked for one in together])
            for one, answered in zip(together, answers, strict=True):
                if not one.answered.done():
                    one.answered.set_result(answered)
        except Exception as error:  # noqa: BLE001 - it is raised where the answers are waited for
            for one in together:
                if not one.answered.done():
                    one.answered.set_exception(error)
        self._pace.add((time.monotonic() - began) / len(together))

    async def _hand_over(self, asked: list[Asked]) -> list[Answered]:
        until = time.monotonic() + self._answer_s
        try:
            answers: list[Answered] = await self._handle.answer.remote(asked)
        except RayActorError as error:
            dead = _dead(error)
            return list(await asyncio.gather(*(self._again(one, dead, until) for one in asked)))
        return answers

    async def _again(self, asked: Asked, dead: frozenset[str | None], until: float) -> Answered:
        """Return the answer to a request that was lost with a replica; nobody waits for it after `until`."""
        while len(dead) < _DEATHS and time.monotonic() < until:
            await asyncio.sleep(_PAUSE_S)
            try:
                answers: list[Answered] = await self._handle.answer.remote([asked])
            except RayActorError as error:
                dead |= _dead(error)
            else:
                return answers[0]
        _log.error("a request was given up: replicas that died with it: %d", len(dead))
        return fault(500, "This request was given up: every replica that it came to ended.")


def _dead(error: RayActorError) -> frozenset[str | None]:
    """Return the replica that died; none where one could not be reached for a while."""
    return frozenset({error.actor_id} if isinstance(error, ActorDiedError) else ())
