"""An attempt at breaking something, and what came of it: tried in a child that is forked from a warm parent."""

from __future__ import annotations

import os
import random
import select
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from edgefuse.errors import EdgefuseError

Result: TypeAlias = Literal["refused", "accepted_equal", "crashed", "hung", "uncaught"]
MAX_RSS_BYTES = 2 << 30
MAX_REFUSAL = 4_000
"""Characters: a refusal is a sentence that quotes a little of what it refuses."""
_PIPE_BYTES = 1 << 15  # less than a pipe holds: a child never waits for its parent
_LOOKS_PER_SECOND = 50
_SAID: tuple[Result, ...] = ("refused", "accepted_equal", "uncaught")


@dataclass(frozen=True)
class Attempt:
    """One hostile input.

    Attributes:
        what: was done to which input, precise enough to find it again from the seed.
        run: raises an `EdgefuseError` where the input is refused. It returns where the input is taken, and must itself
            assert that what came out is right: equal to the untouched input's answer, or as the input declares it.
            What it prints is thrown away, and the processes that it leaves behind are killed.
        kind: of the attempt, where the row tells kinds apart.
    """

    what: str
    run: Callable[[], object]
    kind: str = ""


@dataclass(frozen=True)
class Area:
    """One kind of attack.

    Attributes:
        name: of the row in `attack.json`.
        attempts: yields attempts, made from the given source of randomness only; files may be written to the folder.
            It runs in the parent, so it must not start threads (sessions of runtimes): what it imports is warm.
        tries: how many attempts `make attack` makes; fewer only where it is finite.
        short: how many `make test` makes.
        max_seconds: after which an attempt counts as hung; the slowest takes one, where nothing else runs.
        max_rss_bytes: what the child may take at the most.
        taken: whether some inputs must be taken: where all are refused, attempts do not reach what they attack.
        finite: whether `attempts` may end before `tries` by itself.
        least: how many attempts of a kind `make attack` must make, at the least.
    """

    name: str
    attempts: Callable[[random.Random, Path], Iterator[Attempt]]
    tries: int
    short: int
    max_seconds: float = 30.0
    max_rss_bytes: int = MAX_RSS_BYTES
    taken: bool = True
    finite: bool = False
    least: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What came of one attempt; `detail` is the refusal, or what went wrong."""

    result: Result
    detail: str
    seconds: float
    rss_bytes: int

    @property
    def ok(self) -> bool:
        """Whether the input was refused with a sentence, or rightly taken."""
        return self.result in ("refused", "accepted_equal")


def attempt(each: Attempt, max_seconds: float, max_rss_bytes: int = MAX_RSS_BYTES) -> Outcome:
    """Run an attempt in a forked child and say how it ended; no signal, endless loop or traceback gets out."""
    begin = time.monotonic()
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        _report(each, writing)
    os.close(writing)
    stopped = _watch(child, begin + max_seconds, max_rss_bytes)
    _kill(child)  # the processes that it started, too
    _, status, usage = os.wait4(child, 0)
    rss_bytes = usage.ru_maxrss * 1024
    if rss_bytes > max_rss_bytes:
        stopped = stopped or ("crashed", f"took more memory than {max_rss_bytes} bytes")
    result, detail = stopped or _judge(_said(reading), status)
    return Outcome(result, detail, time.monotonic() - begin, rss_bytes)


def _report(each: Attempt, writing: int) -> None:
    """Run the attempt, say what came of it and end the process, whatever happens."""
    own, said = os.getpid(), "uncaught the process ended by itself"
    try:
        os.setsid()  # what a terminal sends to the parent is not for the child
        nowhere = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(nowhere, descriptor)
        each.run()
        said = "accepted_equal "
    except EdgefuseError as error:
        said = f"refused {error}"
    except BaseException as error:  # noqa: BLE001 - panics, SystemExit: finding them is the purpose
        said = f"uncaught {type(error).__name__}: {error}"
    finally:
        with suppress(BaseException):
            if os.getpid() == own:  # not a child of its own that came back
                os.write(writing, said.encode(errors="backslashreplace")[:_PIPE_BYTES])
        os._exit(0)


def _watch(child: int, deadline: float, max_rss_bytes: int) -> tuple[Result, str] | None:
    """Wait until the child ends; return what it has to be stopped for, if it does not end by itself."""
    ended = os.pidfd_open(child)
    try:
        while not select.select([ended], [], [], 1 / _LOOKS_PER_SECOND)[0]:
            if time.monotonic() > deadline:
                return "hung", "no answer in time"
            if _resident_bytes(child) > max_rss_bytes:
                return "crashed", f"took more memory than {max_rss_bytes} bytes, and was stopped"
    finally:
        os.close(ended)
    return None


def _resident_bytes(process: int) -> int:
    with suppress(OSError, IndexError):
        return int(Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def _kill(child: int) -> None:
    for kill in (os.killpg, os.kill):  # without its group, if it did not come so far as to have one
        with suppress(ProcessLookupError):
            kill(child, signal.SIGKILL)


def _said(reading: int) -> str:
    """Return what the child said, without waiting: it has ended, whoever else may hold the other end."""
    os.set_blocking(reading, False)
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        return (pipe.read(_PIPE_BYTES) or b"").decode(errors="replace")


def _judge(said: str, status: int) -> tuple[Result, str]:
    if os.WIFSIGNALED(status):
        return "crashed", f"signal {signal.Signals(os.WTERMSIG(status)).name}"
    for result in _SAID:
        if said.startswith(result):
            detail = said[len(result) + 1 :]
            if result == "refused" and len(detail) > MAX_REFUSAL:
                return "uncaught", f"a refusal of {len(detail)} characters or more: {detail[:200]}"
            return result, detail
    return "crashed", f"exit status {os.waitstatus_to_exitcode(status)} without a word"
