"""Clients of the desk: each asks, waits for the answer, and asks again; and what commands with such clients share."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import aiohttp

from edgefuse.errors import EdgefuseError

Ask: TypeAlias = Callable[[aiohttp.ClientSession, dict[str, str]], Awaitable[dict[str, Any]]]
_LOST = (aiohttp.ClientError, asyncio.TimeoutError)
_WAIT = aiohttp.ClientTimeout(total=60.0)


class Asked(NamedTuple):
    """What came of requests, in their order.

    Attributes:
        answers: None for one that was refused or got no answer.
        times_s: from each request to the end of its answer.
        took_s: all of them together.
    """

    answers: list[dict[str, Any] | None]
    times_s: list[float]
    took_s: float


def arguments_of(description: str | None) -> argparse.ArgumentParser:
    """Return what commands that ask a desk of two bundles take."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("intent", type=Path, metavar="INTENT", help="the bundle that names the class")
    parser.add_argument("dialogue", type=Path, metavar="DIALOGUE", help="the bundle that makes the reply")
    parser.add_argument("--replicas", type=int, default=2, help="of each bundle (default: 2)")
    parser.add_argument("--clients", type=int, default=8, help="that ask at a time (default: 8)")
    return parser


def outcome(command: Callable[[argparse.Namespace], None], arguments: argparse.Namespace) -> int:
    """Run a command, and return its exit code; an error of ours is told in its sentence."""
    try:
        command(arguments)
    except EdgefuseError as error:
        print(f"{command.__name__}: error: {error}", file=sys.stderr)
        return 2
    return 0


def of_desk(url: str) -> Ask:
    """Ask the desk."""

    async def ask(session: aiohttp.ClientSession, inputs: dict[str, str]) -> dict[str, Any]:
        async with session.post(url, json={"inputs": inputs}) as answer:
            answer.raise_for_status()
            found: dict[str, Any] = await answer.json()
            return found

    return ask


def ask_all(ask: Ask, requests: Sequence[dict[str, str]], clients: int) -> Asked:
    """Ask everything, by so many clients at a time; as many requests before, untimed, until all is warm.

    Args:
        ask: how one request is asked.
        requests: the inputs of each.
        clients: that ask at a time.

    Raises:
        aiohttp.ClientError, asyncio.TimeoutError: there is no answer to begin with.
    """
    return asyncio.run(_asked(ask, requests, clients))


async def _asked(ask: Ask, requests: Sequence[dict[str, str]], clients: int) -> Asked:
    answers: list[dict[str, Any] | None] = [None] * len(requests)
    times_s = [0.0] * len(requests)
    left = iter(range(len(requests)))

    async def client(session: aiohttp.ClientSession) -> None:
        for number in left:
            began = time.perf_counter()
            try:
                answers[number] = await ask(session, requests[number])
            except _LOST:
                answers[number] = None
            times_s[number] = time.perf_counter() - began

    async with aiohttp.ClientSession(timeout=_WAIT) as session:
        for inputs in requests[:clients]:
            await ask(session, inputs)
        began = time.perf_counter()
        await asyncio.gather(*(client(session) for _ in range(clients)))
        return Asked(answers, times_s, time.perf_counter() - began)
