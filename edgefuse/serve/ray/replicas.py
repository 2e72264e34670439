"""All replicas as one that answers: requests are handed over together, and again where a replica died.

A request that is handed over to a replica is lost with it: Ray's handle raises `ActorDiedError`, since a call could
have done something. Ours does nothing but answer, so it is asked again of another replica. One that brings down every
replica that it comes to is given up after three, and those that were handed over with it are asked alone.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from ray import serve
from ray.exceptions import ActorDiedError, RayActorError
from ray.serve.handle import DeploymentHandle

from edgefuse.serve.ray.options import Options
from edgefuse.serve.ray.reach import keep_to_node
from edgefuse.serve.ray.replica import BATCHES, Answered, Asked, fault

_log = logging.getLogger(__name__)
_DEATHS = 3
"""Of replicas, with one and the same request, before it is given up."""
_PAUSE_S = 0.05


class Replicas:
    """Answers requests by the replicas of a bundle.

    Args:
        handle: of the deployment of `Replica`.
        options: with which it was deployed.
    """

    def __init__(self, handle: DeploymentHandle[Any], options: Options) -> None:
        keep_to_node()
        self._handle = handle
        self._answer_s = options.answer_s
        gathering = serve.batch(
            max_batch_size=options.batch,
            batch_wait_timeout_s=options.wait_ms / 1e3,
            max_concurrent_batches=BATCHES * options.replicas,
        )
        self._gathered: Callable[[Asked], Awaitable[Answered]] = gathering(self._hand_over)

    async def ask(self, asked: Asked) -> Answered:
        """Return the answer to a request.

        Raises:
            TimeoutError: it did not come in time.
        """
        return await asyncio.wait_for(self._gathered(asked), self._answer_s)

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
