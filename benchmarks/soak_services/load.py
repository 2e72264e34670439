"""Many requests over HTTP from another process: `python -m benchmarks.soak_services.load`, a plan as JSON on stdin.

By a rate, requests are due at random times (a Poisson process) whether or not earlier ones were answered, as from
many clients who know nothing of each other; times count from when a request was due, so that one which is sent late
by this generator is no faster for it. By a number of clients, each asks again when it has its answer. Every second
request comes over a connection of its own, the others over such as are open.
"""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeAlias

import msgspec

from edgefuse.errors import MeasureError
from edgefuse.typed_json import decode

_TIMEOUT_S = 15.0
_STALE = (ConnectionError, asyncio.IncompleteReadError)
Pair: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is asked, and how often.

    Attributes:
        host: of the service.
        port: of the service.
        body: of each request.
        seconds: for so long; requests that are out then are waited for.
        clients: that ask again when they have an answer; 0 if there is a rate.
        rate_hz: requests a second; 0 if there are clients.
        seed: of the times at which they are due.
    """

    host: str
    port: int
    body: bytes
    seconds: float
    clients: int = 0
    rate_hz: float = 0.0
    seed: int = 0


class Row(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What became of a request.

    Attributes:
        due_s: when it was to be sent, from the beginning.
        late_s: how much later it was.
        took_s: from when it was due to the end of its answer.
        status: of the answer; 0 if none came.
        retry: the answer says when to try again.
    """

    due_s: float
    late_s: float
    took_s: float
    status: int
    retry: bool


class _Client:
    """Sends requests, and reads as much of the answers as tells what became of them."""

    def __init__(self, plan: Plan) -> None:
        head = f"POST /v1/predict HTTP/1.1\r\nHost: {plan.host}\r\nContent-Type: application/json\r\n"
        head += f"Content-Length: {len(plan.body)}\r\n"
        self._request = {
            True: f"{head}\r\n".encode() + plan.body,
            False: f"{head}Connection: close\r\n\r\n".encode() + plan.body,
        }
        self._address = plan.host, plan.port
        self._idle: list[Pair] = []

    async def ask(self, *, keeps: bool) -> tuple[int, bool]:
        """Return the status of an answer, and whether it says when to try again; 0 if there is none.

        A kept connection that the service has ended meanwhile is none, as to any client: the next one is taken.
        """
        while keeps and self._idle:
            with suppress(*_STALE):
                return await self._asked(self._idle.pop(), keeps=True)
        try:
            opened = await asyncio.open_connection(*self._address)
            return await self._asked(opened, keeps=keeps)
        except _STALE:
            return 0, False

    async def _asked(self, pair: Pair, *, keeps: bool) -> tuple[int, bool]:
        reader, writer = pair
        kept = False
        try:
            writer.write(self._request[keeps])
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
            await reader.readexactly(length)
            kept = keeps and b"connection: close" not in head
            return int(head[9:12]), b"\r\nretry-after:" in head
        finally:
            self._idle.append(pair) if kept else writer.close()

    async def close(self) -> None:
        """End the connections that are kept."""
        for _, writer in self._idle:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


async def _run(plan: Plan) -> list[Row]:
    client, rows = _Client(plan), list[Row]()
    began = time.perf_counter()

    async def one(due_s: float, number: int) -> None:
        sent_s = time.perf_counter() - began
        try:
            status, retry = await asyncio.wait_for(client.ask(keeps=bool(number % 2)), _TIMEOUT_S)
        except (asyncio.TimeoutError, OSError):
            status, retry = 0, False
        rows.append(Row(due_s, sent_s - due_s, time.perf_counter() - began - due_s, status, retry))

    try:
        await (_at_a_rate(plan, began, one) if plan.rate_hz else _by_clients(plan, began, one))
    finally:
        await client.close()
    return rows


_One: TypeAlias = Callable[[float, int], Awaitable[None]]


async def _at_a_rate(plan: Plan, began: float, one: _One) -> None:
    draws, due_s, number = random.Random(plan.seed), 0.0, 0
    out: set[asyncio.Future[None]] = set()
    while (due_s := due_s + draws.expovariate(plan.rate_hz)) < plan.seconds:
        await asyncio.sleep(max(0.0, began + due_s - time.perf_counter()))
        task = asyncio.ensure_future(one(due_s, number))
        out.add(task)
        task.add_done_callback(out.discard)
        number += 1
    await asyncio.gather(*out)


async def _by_clients(plan: Plan, began: float, one: _One) -> None:
    async def again(number: int) -> None:
        while (due_s := time.perf_counter() - began) < plan.seconds:
            await one(due_s, number)

    await asyncio.gather(*(again(number) for number in range(plan.clients)))


def started(plan: Plan) -> subprocess.Popen[bytes]:
    """Begin to ask, in another process; whoever calls this ends it, or waits for its rows."""
    command = [sys.executable, "-m", "benchmarks.soak_services.load"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(msgspec.json.encode(plan))
    process.stdin.close()
    process.stdin = None  # else `communicate` would write to it
    return process


def rows(plan: Plan) -> list[Row]:
    """Ask from another process, and return what became of each request.

    Raises:
        MeasureError: that process failed.
    """
    process = started(plan)
    told, _ = process.communicate()
    if process.returncode:
        raise MeasureError("the generator of load failed", got=f"code {process.returncode}")
    return decode(told, list[Row])


def main() -> None:
    """Do what the plan on stdin says, and write the rows."""
    plan = decode(sys.stdin.buffer.read(), Plan)
    found = asyncio.run(_run(plan))
    sys.stdout.buffer.write(msgspec.json.encode(found))


if __name__ == "__main__":
    main()
