"""The load of a machine during a timing: whether the figures can be trusted.

A preempted call is longer, and one after it finds cold caches; long calls are hit more often than short ones, so that
even the ratio of interleaved calls is false, and its interval stays tight. The system's own counters tell: they are
read between the rounds of every timing (decision 070). Whatever a system does not tell (Android, old kernels,
containers) is None, and the others decide.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Protocol, TypeAlias

from edgefuse.errors import CheckError

try:
    import resource
except ImportError:  # no POSIX
    resource = None  # type: ignore[assignment]

MOST_WAITED = 0.05
"""Of the time in which our threads wanted a processor, the share that they may wait for one.

Where calls are longer than the time between two interruptions, all of it is in their median, and none in that of short
ones: a ratio is then false by as much.
"""

MOST_WAITED_ONCE = 0.25
"""The same of what happens once, as a cold start: no median is taken of it, and its start alone may wait a little."""

MOST_STOLEN = 0.10
"""Of the time in which this virtual machine wanted to run, the share that its host may keep from it.

Virtual machines on a shared host lose a few per cent at any time, in pieces that medians are safe against.
"""

MOST_STALLED = 0.5
"""Of the time, the share in which any task of the system may wait for a processor: asked where no better is known."""

MOST_DRIFT = 0.25
"""By how much the calls of one contender may change from the first third of the rounds to the last."""

READ_EVERY_NS = 50_000_000
"""Half a second, the shortest timing of a compile, has ten segments; a reading costs about 0.2 ms."""

_CALLER = 0 if resource is None else getattr(resource, "RUSAGE_THREAD", resource.RUSAGE_SELF)
_WORST = 0.2
_FEWEST_TICKS = 5

Threads: TypeAlias = Mapping[int, tuple[int, int]]
"""Of each thread, by its id, the nanoseconds that it ran and that it waited for a processor."""


@dataclass(frozen=True)
class Reading:
    """The counters of a system at one moment; what it does not tell is None.

    Attributes:
        at_ns: of a clock that never goes back.
        processor_ns: the processor time of the calling thread.
        threads: of the processes that are watched.
        blocked: how often the calling thread gave its processor away: it waited for a device, a thread or a disk.
        interrupted: how often its processor was taken from it.
        stalled_ns: how long any task of the system waited for a processor (`some` of /proc/pressure/cpu).
        busy_ticks, stolen_ticks: of all processors together.
        runnable: tasks of the system that run or wait for a processor, the reading one among them.
    """

    at_ns: int
    processor_ns: int
    threads: Threads | None = None
    blocked: int | None = None
    interrupted: int | None = None
    stalled_ns: int | None = None
    busy_ticks: int | None = None
    stolen_ticks: int | None = None
    runnable: int | None = None


class Source(Protocol):
    """Where readings come from; tests have one of their own."""

    @property
    def processors(self) -> int:
        """How many processors `Reading.runnable` is of."""

    def __call__(self) -> Reading:
        """Read the counters."""


@dataclass(frozen=True)
class System:
    """Reads Linux's counters under `root`, and what Python knows anywhere.

    Attributes:
        processes: the ids of those whose threads are watched; this one if empty.
    """

    root: Path = Path("/")
    processes: tuple[int, ...] = ()

    @property
    def processors(self) -> int:
        """All of the system's: run queues are counted over all of them, in a container, too."""
        return os.cpu_count() or 1

    def __call__(self) -> Reading:
        """Read the counters."""
        own = resource is not None and not self.processes
        usage = resource.getrusage(_CALLER) if own else None
        busy, stolen = self.ticks()
        return Reading(
            at_ns=time.perf_counter_ns(),
            processor_ns=time.thread_time_ns(),
            threads=self._threads(),
            blocked=usage.ru_nvcsw if usage else None,
            interrupted=usage.ru_nivcsw if usage else None,
            stalled_ns=self._stalled(),
            busy_ticks=busy,
            stolen_ticks=stolen,
            runnable=self._runnable(),
        )

    def _threads(self) -> Threads | None:
        """Read `schedstat` of every thread: nanoseconds on a processor, nanoseconds in its queue, time slices."""
        found: dict[int, tuple[int, int]] = {}
        for process in self.processes or ("self",):
            folder = self.root / f"proc/{process}/task"
            try:
                names = os.listdir(folder)  # noqa: PTH208 - names are all that is needed
            except OSError:
                continue
            for name in names:
                fields = self._text(f"proc/{process}/task/{name}/schedstat").split()
                if len(fields) == 3 and all(map(str.isdecimal, fields)) and int(fields[0]):  # zeros: not counted
                    found[int(name)] = (int(fields[0]), int(fields[1]))
        return found or None

    def _stalled(self) -> int | None:
        for line in self._text("proc/pressure/cpu").splitlines():
            kind, _, total = line.partition(" ")[0], *line.rpartition("total=")[1:]
            if kind == "some" and total.isdecimal():
                return 1000 * int(total)
        return None

    def ticks(self) -> tuple[int | None, int | None]:
        """Read user + nice + system + irq + softirq, and steal, of the line of all processors."""
        fields = self._text("proc/stat").partition("\n")[0].split()
        if len(fields) < 9 or fields[0] != "cpu" or not all(one.isdecimal() for one in fields[1:9]):
            return None, None
        user, nice, system, _, _, irq, softirq, steal = map(int, fields[1:9])
        return user + nice + system + irq + softirq, steal

    def _runnable(self) -> int | None:
        fields = self._text("proc/loadavg").split()
        running = fields[3].partition("/")[0] if len(fields) > 3 else ""
        return int(running) if running.isdecimal() else None

    def _text(self, name: str) -> str:
        try:
            return (self.root / name).read_text(encoding="ascii", errors="replace")
        except OSError:
            return ""


SYSTEM: Source = System()


def blocked() -> float:
    """Return how often the calling thread gave its processor away so far; not a number where nobody counts."""
    return math.nan if resource is None else resource.getrusage(_CALLER).ru_nvcsw


@dataclass(frozen=True)
class Pressure:
    """What else the machine did during one timing; what it does not tell is None. Shares are from 0 to 1.

    Attributes:
        waited: of the time in which our threads wanted a processor, what they waited for one. The worst fifth of the
            segments of the timing is left out: a short interruption does no harm to a median.
        stolen: of the time in which this virtual machine wanted to run, what its host kept from it.
        stalled: of the time, what any task of the system waited for a processor.
        others: the tasks beside ours that ran or waited for a processor; the median of the readings.
        processors: of the whole system.
        interruptions_per_s: how often a processor was taken from the thread that timed.
        drift: the largest change of a contender's calls from the first third of the rounds to the last.
    """

    waited: float | None = None
    stolen: float | None = None
    stalled: float | None = None
    others: float | None = None
    processors: int = 0
    interruptions_per_s: float | None = None
    drift: float | None = None

    @property
    def busy(self) -> bool:
        """Whether figures that were measured meanwhile cannot be trusted."""
        return bool(self.seen)

    @property
    def seen(self) -> tuple[str, ...]:
        """What speaks against the figures, each in words with what was expected; nothing on a quiet machine."""
        found: list[str] = []
        if self.waited is not None and self.waited >= MOST_WAITED:
            found.append(_share(self.waited, "the time waited for a processor", MOST_WAITED))
        if self.waited is None and self.stalled is not None and self.stalled >= MOST_STALLED:
            found.append(_share(self.stalled, "the time some task waited for a processor", MOST_STALLED))
        if self.stolen is not None and self.stolen >= MOST_STOLEN:
            found.append(_share(self.stolen, "its time kept from this virtual machine", MOST_STOLEN))
        if self.others is not None and self.processors and self.others >= self.processors:
            expected = f"expected fewer than its {self.processors} processors"
            found.append(f"{self.others:.0f} other tasks that wanted a processor ({expected})")
        if self.drift is not None and self.drift >= MOST_DRIFT:
            found.append(
                f"calls that changed by {100 * self.drift:.0f} % from the first third of the rounds to the last "
                f"(expected < {100 * MOST_DRIFT:.0f} %)"
            )
        return tuple(found)


def _share(value: float, words: str, most: float) -> str:
    return f"{100 * value:.0f} % of {words} (expected < {100 * most:.0f} %)"


@dataclass
class Watch:
    """Reads a source while something is timed; one watch is for one timing.

    Attributes:
        source: of the readings.
        every_ns: the shortest time between two readings that `look` makes.
        clock: tells that time.
    """

    source: Source
    every_ns: int = READ_EVERY_NS
    clock: Callable[[], int] = time.perf_counter_ns
    _readings: list[Reading] = field(default_factory=list, init=False)
    _next_ns: int = field(default=0, init=False)

    def look(self, *, now: bool = False) -> None:
        """Read the counters, unless the last reading is fresh; `now` reads in any case."""
        if now or self.clock() >= self._next_ns:
            self._readings.append(self.source())
            self._next_ns = self.clock() + self.every_ns

    def pressure(self, drift: float | None = None) -> Pressure:
        """Return what was seen between the first reading and the last."""
        readings = self._readings
        if len(readings) < 2:
            return Pressure(drift=drift)
        seconds = max((readings[-1].at_ns - readings[0].at_ns) / 1e9, 1e-9)
        interrupted = _change([one.interrupted for one in readings])
        stalled = _change([one.stalled_ns for one in readings])
        queues = [one.runnable - 1 for one in readings[1:] if one.runnable is not None]
        return Pressure(
            waited=_usual([share for pair in pairwise(readings) if (share := _waited(*pair)) is not None]),
            stolen=_stolen(readings),
            stalled=None if stalled is None else min(stalled / 1e9 / seconds, 1.0),
            others=float(median(queues)) if queues else None,
            processors=self.source.processors,
            interruptions_per_s=None if interrupted is None else interrupted / seconds,
            drift=drift,
        )


def _waited(first: Reading, last: Reading) -> tuple[float, float] | None:
    """Return for how long our threads waited for a processor, and for how long they wanted one, in ns.

    Where the system does not count it, what is missing from the calling thread's processor time was taken from it,
    unless it gave the processor away more often than it lost it.
    """
    if first.threads and last.threads:
        both = [(first.threads[id_], last.threads[id_]) for id_ in last.threads if id_ in first.threads]
        waited = sum(after[1] - before[1] for before, after in both)
        return float(waited), float(waited + sum(after[0] - before[0] for before, after in both))
    blocked = _change([first.blocked, last.blocked])
    interrupted = _change([first.interrupted, last.interrupted])
    if blocked is None or interrupted is None or blocked > interrupted:
        return None
    elapsed = last.at_ns - first.at_ns
    return float(elapsed - (last.processor_ns - first.processor_ns)), float(elapsed)


def _usual(segments: Sequence[tuple[float, float]]) -> float | None:
    """Return the share that was waited over all segments but the worst fifth."""
    ranked = sorted((one for one in segments if one[1] > 0), key=lambda one: one[0] / one[1])
    kept = ranked[: len(ranked) - int(_WORST * len(ranked))]
    return max(sum(waited for waited, _ in kept) / sum(wanted for _, wanted in kept), 0.0) if kept else None


def _stolen(readings: Sequence[Reading]) -> float | None:
    stolen = _change([one.stolen_ticks for one in readings])
    busy = _change([one.busy_ticks for one in readings])
    if stolen is None or busy is None:
        return None
    return stolen / (busy + stolen) if stolen >= _FEWEST_TICKS else 0.0


def _change(values: Sequence[int | None]) -> int | None:
    first, last = values[0], values[-1]
    return None if first is None or last is None else max(last - first, 0)


def since_the_start(source: Source | None = None) -> float | None:
    """Return the share of this process's life, as far as it wanted a processor, that it waited for one."""
    threads = (source or SYSTEM)().threads
    if threads is None:
        return None
    ran, waited = (sum(times[part] for times in threads.values()) for part in (0, 1))
    return waited / max(ran + waited, 1)


_SPIN_NS = 300_000_000


def quiet(source: Source | None = None) -> bool:
    """Tell whether the machine is quiet now, from a third of a second of work."""
    watch = Watch(source or SYSTEM)
    watch.look(now=True)
    end = watch.clock() + _SPIN_NS
    while watch.clock() < end:
        watch.look()
    watch.look(now=True)
    return not watch.pressure().busy


def require(what: str, seen: Sequence[str]) -> None:
    """Fail if figures were measured on a busy machine.

    Args:
        what: was timed, as in "while the rungs were timed".
        seen: what speaks against the figures; nothing if they can be trusted.

    Raises:
        CheckError: if anything does.
    """
    if seen:
        raise CheckError(
            f"the machine was busy while {what} timed",
            got="; ".join(seen),
            fix="end what else runs there, and measure again",
        )
