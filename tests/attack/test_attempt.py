"""The harness itself: whatever an attempt does, it is told apart, and what breaks something is never called right."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edgefuse.errors import BundleError
from tests.attack.attempt import Area, Attempt, Outcome, attempt
from tests.attack.rows import assail

ROOT = Path(__file__).parents[2]
SOON = 0.5
LATE = 4.0
"""Seconds: what hangs is stopped soon where nothing else is tried, and late where a busy machine may take a while."""


class Panic(BaseException):
    pass


class ChattyError(BundleError):
    def __str__(self) -> str:
        return "x" * 5000


class MuteError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


def refuse() -> None:
    raise BundleError("the bundle is damaged", got="nothing")


def fail(error: BaseException) -> Callable[[], None]:
    def run() -> None:
        raise error

    return run


def crash() -> None:
    faulthandler.disable()
    ctypes.string_at(0)


def abort() -> None:
    faulthandler.disable()
    os.abort()


def loop() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        time.sleep(0.01)


def close_everything_and_loop() -> None:
    os.closerange(3, 4096)
    loop()


def print_and_exit() -> None:
    print("accepted_equal")
    os.write(1, b"accepted_equal")
    os._exit(0)


def fork_and_fail() -> None:
    """Let a child come back from here before the parent fails."""
    if child := os.fork():
        os.waitpid(child, 0)
        raise ValueError("the parent of a child")


def tried(run: Callable[[], object], seconds: float = 20.0) -> Outcome:
    return attempt(Attempt("a test", run), seconds)


def test_a_refusal_and_a_right_answer_are_what_is_wanted() -> None:
    refused, taken = tried(refuse), tried(lambda: None)
    assert (refused.result, refused.ok, taken.result, taken.ok) == ("refused", True, "accepted_equal", True)
    assert refused.detail == "the bundle is damaged: got nothing."
    assert min(refused.rss_bytes, taken.rss_bytes) > 1_000_000


@pytest.mark.parametrize(
    ("run", "result", "detail"),
    [
        (fail(KeyError("a")), "uncaught", "KeyError: 'a'"),
        (fail(AssertionError("wrong")), "uncaught", "AssertionError: wrong"),
        (fail(SystemExit(0)), "uncaught", "SystemExit: 0"),
        (fail(Panic("rust")), "uncaught", "Panic: rust"),
        (fail(MuteError()), "uncaught", "the process ended by itself"),
        (fork_and_fail, "uncaught", "ValueError: the parent of a child"),
        (fail(ChattyError("x")), "uncaught", "a refusal of 500"),
        (crash, "crashed", "signal SIGSEGV"),
        (abort, "crashed", "signal SIGABRT"),
        (print_and_exit, "crashed", "exit status 0 without a word"),
        (lambda: os._exit(3), "crashed", "exit status 3 without a word"),
        (lambda: os.closerange(3, 4096), "crashed", "exit status 0 without a word"),
    ],
)
def test_what_breaks_something_is_told(run: Callable[[], object], result: str, detail: str) -> None:
    outcome = tried(run)
    assert (outcome.result, outcome.ok) == (result, False)
    assert outcome.detail.startswith(detail)


@pytest.mark.parametrize("run", [loop, close_everything_and_loop])
def test_what_never_ends_is_hung(run: Callable[[], object]) -> None:
    outcome = tried(run, SOON)
    assert (outcome.result, outcome.ok) == ("hung", False)
    assert outcome.seconds >= SOON


def test_what_eats_memory_is_stopped() -> None:
    eaten: list[bytearray] = []

    def eat() -> None:
        while True:
            eaten.append(bytearray(os.urandom(1 << 20)) * 16)
            time.sleep(0.01)  # who looks at it gets a processor, however busy they are

    limit = tried(lambda: None).rss_bytes + (200 << 20)
    outcome = attempt(Attempt("eat", eat), 60.0, limit)
    assert (outcome.result, outcome.ok) == ("crashed", False)
    assert outcome.detail == f"took more memory than {limit} bytes, and was stopped"
    assert limit < outcome.rss_bytes < limit + (4 << 30)


def test_memory_that_was_given_back_in_time_counts_too() -> None:
    limit = tried(lambda: None).rss_bytes + (100 << 20)  # a child has not all pages of its parent
    outcome = attempt(Attempt("eat", lambda: bytearray(os.urandom(1 << 20)) * 300), 60.0, limit)
    assert (outcome.result, outcome.ok) == ("crashed", False)
    assert outcome.detail.startswith(f"took more memory than {limit} bytes")


def test_nothing_that_an_attempt_starts_stays(tmp_path: Path) -> None:
    def leave() -> None:
        process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], close_fds=False)
        (tmp_path / "pid").write_text(str(process.pid))

    assert tried(leave).result == "accepted_equal"
    left = Path("/proc") / (tmp_path / "pid").read_text() / "status"
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for _ in range(2000):
            if "State:\tZ" in left.read_text():
                return
            time.sleep(0.05)
        raise AssertionError(left.read_text())


def test_a_row_counts_every_kind_and_is_not_right_for_one_that_broke_something() -> None:
    def attempts(source: random.Random, folder: Path) -> Iterator[Attempt]:
        assert folder.is_dir()
        for run in (refuse, refuse, lambda: None, fail(ValueError("no")), loop, crash, lambda: None):
            yield Attempt(f"number {source.random()}", run)

    row, shown = assail(Area("mixed", attempts, tries=9, short=9, max_seconds=LATE), 6, seed=1)
    assert {
        name: row[name] for name in ("tried", "refused", "accepted_equal", "crashed", "hung", "uncaught", "ok")
    } == {
        "tried": 6,
        "refused": 2,
        "accepted_equal": 1,
        "crashed": 1,
        "hung": 1,
        "uncaught": 1,
        "ok": False,
    }
    assert (row["missing"], [line.split(": ")[1] for line in shown]) == (0, ["uncaught", "hung", "crashed"])
    again, the_same = assail(Area("mixed", attempts, tries=9, short=9, max_seconds=LATE), 4, seed=1)
    assert (again["uncaught"], the_same) == (1, shown[:1])
    assert row["seconds_worst"] >= LATE


def test_an_area_that_tries_nothing_is_not_right() -> None:
    row, shown = assail(Area("idle", lambda source, folder: iter(()), tries=9, short=9), 9, seed=1)
    assert (row["ok"], row["tried"], row["missing"]) == (False, 0, 9)
    assert shown == [
        "idle: nothing was taken: the attempts do not reach what they attack",
        "idle: 9 attempts are missing",
    ]


def test_an_area_that_ends_early_or_takes_nothing_is_not_right() -> None:
    def attempts(source: random.Random, folder: Path) -> Iterator[Attempt]:
        yield from (Attempt("none", lambda: None, "edit"), Attempt("none", refuse))

    area = Area("short", attempts, tries=2, short=2)
    assert assail(area, 2, seed=1)[0]["ok"]
    row, shown = assail(area, 3, seed=1)
    assert (row["ok"], row["missing"], shown) == (False, 1, ["short: 1 attempts are missing"])
    assert assail(replace(area, finite=True), 3, seed=1)[0]["ok"]
    assert not assail(area, 1, seed=1)[0]["missing"]
    edits = replace(area, least=(("edit", 2),))
    assert assail(edits, 2, seed=1)[0]["ok"]
    row, shown = assail(edits, 2, seed=1, whole=True)
    assert (row["ok"], row["kinds"], shown) == (False, {"edit": 1}, ["short: 1 attempts are missing"])
    refused = Area("refused", lambda source, folder: iter([Attempt("no", refuse)]), tries=1, short=1)
    assert not assail(refused, 1, seed=1)[0]["ok"]
    assert assail(replace(refused, taken=False), 1, seed=1)[0]["ok"]


def test_attacks_need_assertions() -> None:
    command = [sys.executable, "-O", "-m", "tests.attack", "--tries", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "python -O leaves assertions out" in done.stderr
