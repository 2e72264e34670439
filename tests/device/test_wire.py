"""The streams of a command: bounded in time, in memory and in what stays."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgefuse.device.wire import End, Excerpt, Flood, Silence, Wire

Start = Callable[[str], Wire]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a command of this machine's shell, and end it with the test."""
    wires: list[Wire] = []

    def started(script: str) -> Wire:
        wires.append(Wire(["sh", "-c", script], dict(os.environ)))
        return wires[-1]

    yield started
    for wire in wires:
        wire.end(0)


def soon(seconds: float = 30.0) -> float:
    return time.monotonic() + seconds


def test_lines_and_bytes_come_as_they_were_sent(start: Start) -> None:
    wire = start("exec cat")
    wire.send([b"one\ntwo ", b"words\n123456\n"], 30, soon())
    assert [wire.line(99, 30, soon()), wire.line(99, 30, soon())] == [b"one", b"two words"]
    assert (wire.read(3, 30, soon()), wire.line(99, 30, soon())) == (b"123", b"456")
    assert (wire.end(30), wire.killed) == (0, False)


def test_more_than_a_pipe_holds_goes_through(start: Start) -> None:
    wire = start("head -c 10000000 | wc -c")
    wire.send([bytes(10_000_000)], 30, soon())
    assert wire.line(99, 30, soon()).strip() == b"10000000"


@pytest.mark.parametrize("script", ["exec sleep 60", "while :; do echo busy >&2; sleep 0.01; done"])
def test_who_says_nothing_and_takes_nothing_is_silent(start: Start, script: str) -> None:
    wire = start(script)
    for wait in (
        lambda: wire.line(99, 0.1, soon()),
        lambda: wire.line(99, 30, soon(0.1)),
        lambda: wire.read(1, 0.1, soon()),
        lambda: wire.skip(b"mark", 99, soon(0.1)),
        lambda: wire.send([bytes(1_000_000)], 0.1, soon()),
        lambda: wire.send([bytes(1_000_000)], 30, soon(0.1)),
    ):
        with pytest.raises(Silence):
            wait()


def test_who_trickles_is_not_silent_but_has_a_deadline(start: Start) -> None:
    wire = start("while printf x; do sleep 0.01; done")
    with pytest.raises(Silence):
        wire.line(1 << 20, 30, soon(0.5))


def test_who_sends_too_much_floods(start: Start) -> None:
    with pytest.raises(Flood):
        start("exec cat /dev/zero").line(1 << 16, 30, soon())
    wire = start("yes word | head -c 1000000; echo; exec cat /dev/zero")
    with pytest.raises(Flood):
        wire.skip(b"\nmark", 1 << 22, soon())
    assert wire.printed.text().startswith("word\nword\n")
    assert len(wire.printed.text()) < 50_000


def test_a_mark_is_found_wherever_it_stands(start: Start) -> None:
    for size in (0, 1, 65_530, 65_536, 200_000):
        wire = start(f"head -c {size} /dev/zero; printf '\\nmark {{}}\\n'")
        wire.skip(b"\nmark ", 1 << 20, soon())
        assert wire.line(99, 30, soon()) == b"{}"


def test_the_end_is_told(start: Start) -> None:
    wire = start("printf 'last words'; exec >&- <&-; sleep 60")
    with pytest.raises(End):
        wire.skip(b"mark", 99, soon())
    assert wire.printed.text() == "last words"
    with pytest.raises(End):
        wire.send((b"x" for _ in range(1_000_000)), 30, soon())


def test_a_complaint_is_kept_at_both_ends_and_not_without_bound(start: Start) -> None:
    wire = start("echo first >&2; yes >&2 & head -c 1; kill $!; wait $! 2>/dev/null; echo last >&2; echo said")
    while len(wire.complaint.text()) <= 1 << 15:  # which is all that is kept
        with pytest.raises(Silence):
            wire.line(99, 30, soon(0.3))
    wire.send([b"x"], 30, soon())
    assert wire.line(99, 30, soon()) == b"xsaid"
    wire.end(30)
    found = wire.complaint.text()
    assert (found.startswith("first\ny\ny\n"), found.endswith("last\n")) == (True, True)
    assert len(found) < 40_000


def test_an_excerpt_of_little_is_all_of_it() -> None:
    excerpt = Excerpt()
    excerpt.add(b"a")
    excerpt.add("bé".encode() + b"\xff")
    assert excerpt.text() == "abé\ufffd"


def test_nothing_of_a_command_stays(start: Start, tmp_path: Path) -> None:
    note = tmp_path / "note"
    wire = start(
        f"trap '' HUP INT TERM; sleep 600 & echo $! > {note}.new; mv {note}.new {note}; echo ready; wait; sleep 600"
    )
    assert wire.line(99, 30, soon()) == b"ready"
    before = len(list(Path("/proc/self/fd").iterdir()))
    began = time.monotonic()
    assert (wire.end(0.2), wire.killed) == (-signal.SIGKILL, True)
    assert time.monotonic() - began < 300
    assert len(list(Path("/proc/self/fd").iterdir())) <= before - 3
    child = Path("/proc") / note.read_text().strip() / "stat"
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        while child.read_text().rpartition(") ")[2][0] not in "ZX":
            assert time.monotonic() - began < 300
            time.sleep(0.01)
    assert wire.end(30) == -signal.SIGKILL, "ending twice is harmless"


def test_a_client_that_goes_leaves_none_of_its_own_behind(start: Start, tmp_path: Path) -> None:
    note = tmp_path / "note"
    wire = start(f"(echo $$ > {note}; exec sleep 60) & while [ ! -s {note} ]; do :; done; exit 7")
    assert (wire.end(30), wire.killed) == (7, False)


def test_after_the_end_no_stream_is_touched(start: Start, tmp_path: Path) -> None:
    wire = start("exec cat")
    wire.end(30)
    with (tmp_path / "a").open("wb") as one, (tmp_path / "b").open("wb") as two, (tmp_path / "c").open("wb") as three:
        wire.nudge(b"\n")
        with pytest.raises(End):
            wire.send([b"x"], 1, soon())
        with pytest.raises(End):
            wire.line(9, 1, soon())
        assert {file.fileno() for file in (one, two, three)}
    assert [(tmp_path / name).read_bytes() for name in "abc"] == [b"", b"", b""]


def test_a_nudge_never_waits(start: Start) -> None:
    wire = start("exec sleep 600")
    began = time.monotonic()
    for _ in range(70_000):  # more than a pipe holds
        wire.nudge(b"\n")
    assert time.monotonic() - began < 300
