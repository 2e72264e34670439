"""What a machine tells about its load, and when figures cannot be trusted: simulated, and once for real."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from edgefuse.errors import CheckError
from edgefuse.measure.latency import Interleaved
from edgefuse.runtime import pressure
from edgefuse.runtime.pressure import Pressure, Reading, System, Watch

MS = 1_000_000
START = Reading(
    at_ns=0,
    processor_ns=0,
    threads={1: (100, 100)},
    blocked=0,
    interrupted=0,
    stalled_ns=0,
    busy_ticks=0,
    stolen_ticks=0,
    runnable=1,
)


@dataclass
class Script:
    """A source that gives its readings one after the other, and the last one for ever."""

    readings: Sequence[Reading]
    processors: int = 2
    asked: int = field(default=0, init=False)

    def __call__(self) -> Reading:
        self.asked += 1
        return self.readings[min(self.asked, len(self.readings)) - 1]


def seen(*readings: Reading, drift: float | None = None) -> Pressure:
    """Return the pressure that a watch sees in readings."""
    watch = Watch(Script(readings))
    for _ in readings:
        watch.look(now=True)
    return watch.pressure(drift)


def after(waited_ms: Sequence[int], ran_ms: int = 100) -> list[Reading]:
    """Return readings of segments in which one thread ran and waited for so long."""
    readings = [START]
    for waited in waited_ms:
        last = readings[-1]
        assert last.threads is not None
        ran, before = last.threads[1]
        readings.append(
            replace(
                last,
                at_ns=last.at_ns + (ran_ms + waited) * MS,
                processor_ns=last.processor_ns + ran_ms * MS,
                threads={1: (ran + ran_ms * MS, before + waited * MS)},
            )
        )
    return readings


def test_waiting_for_a_processor_is_told_and_judged() -> None:
    found = seen(*after([60] * 10))
    assert found.waited == pytest.approx(60 / 160)
    assert found.busy
    assert found.seen == ("38 % of the time waited for a processor (expected < 5 %)",)
    assert not seen(*after([4] * 10)).busy


def test_a_short_interruption_marks_nothing() -> None:
    assert seen(*after([0] * 8 + [300, 300])).waited == 0
    assert seen(*after([0] * 7 + [300, 300, 300])).busy, "more than a fifth of the time is no short interruption"


def test_threads_that_come_and_go_are_left_out() -> None:
    first = replace(START, threads={1: (100, 0), 2: (10**9, 10**9)})
    last = replace(START, at_ns=100 * MS, threads={1: (100 + 95 * MS, 5 * MS), 3: (10**9, 10**9)})
    assert seen(first, last).waited == pytest.approx(0.05)


def test_processor_time_tells_what_was_taken_where_threads_are_not_counted() -> None:
    first = replace(START, threads=None)
    last = replace(first, at_ns=100 * MS, processor_ns=60 * MS, interrupted=20)
    assert seen(first, last).waited == pytest.approx(0.4)
    assert seen(first, replace(last, blocked=30)).waited is None, "the time was given away"
    unknown = replace(last, blocked=None, interrupted=None, stalled_ns=80 * MS)
    assert seen(replace(first, blocked=None), unknown).seen == (
        "80 % of the time some task waited for a processor (expected < 50 %)",
    )


def test_stalls_of_others_decide_nothing_where_our_own_waiting_is_known() -> None:
    quiet = after([0] * 5)
    found = seen(*quiet[:-1], replace(quiet[-1], stalled_ns=quiet[-1].at_ns))
    assert found.stalled == 1
    assert not found.busy


def test_a_host_may_keep_a_little_from_a_virtual_machine() -> None:
    quiet = after([0])
    taken = [replace(quiet[-1], busy_ticks=1000 - ticks, stolen_ticks=ticks) for ticks in (3, 60, 140)]
    assert [seen(START, one).stolen for one in taken] == [0.0, 0.06, 0.14]
    assert [seen(START, one).busy for one in taken] == [False, False, True]
    assert seen(START, taken[-1]).seen == ("14 % of its time kept from this virtual machine (expected < 10 %)",)


def test_as_many_other_tasks_as_processors_are_too_many() -> None:
    quiet = after([0] * 5)
    queues = [[replace(one, runnable=1 + others) for one in quiet] for others in (0, 1, 2, 8)]
    assert [seen(*queue).busy for queue in queues] == [False, False, True, True]
    assert seen(*queues[-1]).seen == ("8 other tasks that wanted a processor (expected fewer than its 2 processors)",)
    blip = [replace(one, runnable=9 if number == 2 else 1) for number, one in enumerate(quiet)]
    assert not seen(*blip).busy


def test_a_drift_marks_what_no_counter_shows() -> None:
    assert not seen(START, drift=0.2).busy
    assert seen(drift=0.3).seen == (
        "calls that changed by 30 % from the first third of the rounds to the last (expected < 25 %)",
    )


def test_a_system_that_tells_nothing_is_not_busy() -> None:
    nothing = Reading(at_ns=0, processor_ns=0)
    found = seen(nothing, replace(nothing, at_ns=MS))
    assert (found.waited, found.stolen, found.stalled, found.others) == (None, None, None, None)
    assert not found.busy


def test_a_watch_reads_no_more_often_than_it_should() -> None:
    source, now = Script([START]), [0]
    watch = Watch(source, every_ns=50, clock=lambda: now[0])
    for now[0] in range(200):
        watch.look()
    assert source.asked == 4
    watch.look(now=True)
    assert source.asked == 5


@pytest.fixture
def linux(tmp_path: Path) -> Path:
    """A root with the counters of a kernel."""
    thread = tmp_path / "proc/self/task/7"
    thread.mkdir(parents=True)
    (thread / "schedstat").write_text("1000 300 12\n")
    (tmp_path / "proc/pressure").mkdir()
    (tmp_path / "proc/pressure/cpu").write_text(
        "some avg10=3.28 avg60=2.67 avg300=0.91 total=6364487\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=1\n"
    )
    (tmp_path / "proc/stat").write_text("cpu  10 20 30 1000 50 1 2 77 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n")
    (tmp_path / "proc/loadavg").write_text("0.22 0.29 0.19 3/109 7786\n")
    return tmp_path


def test_the_counters_of_linux_are_read(linux: Path) -> None:
    found = System(root=linux)()
    assert found.threads == {7: (1000, 300)}
    assert found.stalled_ns == 6_364_487_000
    assert (found.busy_ticks, found.stolen_ticks) == (10 + 20 + 30 + 1 + 2, 77)
    assert found.runnable == 3
    assert found.interrupted is not None


def test_the_threads_of_other_processes_are_read_instead(linux: Path) -> None:
    (linux / "proc/self").rename(linux / "proc/42")
    found = System(root=linux, processes=(42, 43))()
    assert found.threads == {7: (1000, 300)}
    assert found.interrupted is None, "that would be of this process"


@pytest.mark.parametrize("content", ["", "0 0 0\n", "a b c\n", "1 2\n", "\xff"])
def test_what_a_kernel_does_not_tell_is_missing(linux: Path, content: str) -> None:
    for file in ("self/task/7/schedstat", "pressure/cpu", "stat", "loadavg"):
        (linux / "proc" / file).write_text(content, encoding="latin-1")
    found = System(root=linux)()
    assert (found.threads, found.stalled_ns, found.busy_ticks, found.stolen_ticks) == (None, None, None, None)
    assert found.runnable is None
    assert System(root=linux / "nowhere")().threads is None


def test_this_machine_can_be_read() -> None:
    found = System()()
    assert found.at_ns > 0
    assert System().processors >= 1


def test_a_process_knows_how_long_it_waited_since_its_start() -> None:
    assert pressure.since_the_start(Script([replace(START, threads={1: (60, 30), 2: (0, 10)})])) == 0.4
    assert pressure.since_the_start(Script([replace(START, threads=None)])) is None


def test_whether_a_machine_is_quiet_now_takes_a_moment_of_work() -> None:
    assert pressure.quiet(Script(after([0] * 20)))
    assert not pressure.quiet(Script(after([50] * 20)))


def test_strictness_says_what_was_seen() -> None:
    pressure.require("the rungs were", ())
    with pytest.raises(CheckError) as raised:
        pressure.require("the rungs were", seen(*after([60] * 10)).seen)
    assert str(raised.value) == (
        "the machine was busy while the rungs were timed: got 38 % of the time waited for a processor "
        "(expected < 5 %). Fix: end what else runs there, and measure again."
    )
    assert raised.value.exit_code == 1


@pytest.fixture
def crowded() -> Iterator[None]:
    """This process and four busy ones on one processor."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    code = "print(flush=True)\nwhile True: pass"
    running = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) for _ in range(4)]
    try:
        for process in running:
            assert process.stdout is not None
            process.stdout.readline()
        yield
    finally:
        os.sched_setaffinity(0, before)
        for process in running:
            process.kill()
            process.communicate()


@pytest.mark.timing
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes cannot be put on one processor here")
def test_busy_processes_beside_mark_a_real_timing(crowded: None) -> None:
    calls = {"long": lambda: sum(range(20_000)), "short": lambda: sum(range(9))}
    latencies = Interleaved(min_rounds=20, min_seconds=1.0)(calls)
    assert latencies.pressure.busy
    assert latencies.ratio("long", "short").marked
