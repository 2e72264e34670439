"""An attempt at breaking something, and what came of it: tried in a child that is forked from a warm parent."""

from __future__ import annotations

import os
import random
import select
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from edgefuse.errors import EdgefuseError

Result: TypeAlias = Literal["refused", "accepted_equal", "crashed", "hung", "uncaught"]
MAX_DETAIL_BYTES = 4_000
_SAID: tuple[Result, ...] = ("refused", "accepted_equal", "uncaught")


@dataclass(frozen=True)
class Attempt:
    """One hostile input.

    Attributes:
        what: was done to which input, precise enough to find it again from the seed.
        run: raises an `EdgefuseError` where the input is refused. It returns where the input is taken, and must itself
            assert that what came out is right: equal to the untouched input's answer, or as the input declares it.
    """

    what: str
    run: Callable[[], object]


@dataclass(frozen=True)
class Area:
    """One kind of attack.

    Attributes:
        name: of the row in `attack.json`.
        attempts: yields attempts, made from the given source of randomness only; files may be written to the folder.
            It runs in the parent, so it must not start threads (sessions of runtimes): what it imports is warm.
        tries: how many attempts `make attack` makes; fewer only where `attempts` ends earlier by itself.
        short: how many `make test` makes.
        max_seconds: after which an attempt counts as hung.
        max_rss_bytes: what the child may take at the most.
    """

    name: str
    attempts: Callable[[random.Random, Path], Iterator[Attempt]]
    tries: int
    short: int
    max_seconds: float = 5.0
    max_rss_bytes: int = 2 << 30


@dataclass(frozen=True)
class Outcome:
    """What came of one attempt; `detail` is the refusal, or what went wrong."""

    result: Result
    detail: str
    seconds: float
    rss_bytes: int


def attempt(each: Attempt, max_seconds: float) -> Outcome:
    """Run an attempt in a forked child and say how it ended; no signal, endless loop or traceback gets out."""
    begin = time.monotonic()
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        _report(each, writing)
    os.close(writing)
    said, hung = _read(reading, begin + max_seconds)
    if hung:
        os.kill(child, signal.SIGKILL)
    _, status, usage = os.wait4(child, 0)
    result, detail = _judge(said, status, hung)
    return Outcome(result, detail, time.monotonic() - begin, usage.ru_maxrss * 1024)


def _report(each: Attempt, writing: int) -> None:
    """Run the attempt, say what came of it and end the process, whatever happens."""
    said = "uncaught the process ended by itself"
    try:
        os.setsid()  # what a terminal sends to the parent is not for the child
        each.run()
        said = "accepted_equal "
    except EdgefuseError as error:
        said = f"refused {error}"
    except BaseException as error:  # noqa: BLE001 - panics, SystemExit: finding them is the purpose
        said = f"uncaught {type(error).__name__}: {error}"
    finally:
        os.write(writing, said.encode(errors="backslashreplace")[:MAX_DETAIL_BYTES])
        os._exit(0)


def _read(reading: int, deadline: float) -> tuple[str, bool]:
    """Return what the child said, and whether the deadline came first."""
    said = b""
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        while select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))[0]:
            chunk = pipe.read(MAX_DETAIL_BYTES)
            if not chunk:
                return said.decode(errors="replace"), False
            said += chunk
    return "", True


def _judge(said: str, status: int, hung: bool) -> tuple[Result, str]:
    if hung:
        return "hung", "no answer in time"
    if os.WIFSIGNALED(status):
        return "crashed", f"signal {signal.Signals(os.WTERMSIG(status)).name}"
    for result in _SAID:
        if said.startswith(result):
            return result, said[len(result) + 1 :]
    return "crashed", f"exit status {os.waitstatus_to_exitcode(status)}"
