"""Time several callables against each other in one run, and say how sure the comparison is.

An interval holds what two clocks say: the wall's, and that of the calling thread's processor time, which stands still
while the thread waits for a processor. Where they are the same, nothing was taken from the calls. It also reaches to
what every opening of the contenders says, where they were opened several times: where their buffers lie is chance, the
same for all rounds of an opening, and worth a few per cent (decision 101). On a busy machine
(`pressure`) an interval is marked, and reaches to what every part of the run and the fastest calls say, too: they are
what the others did not disturb (decision 070).
"""

from __future__ import annotations

import gc
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import cycle
from typing import Literal, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from edgefuse.errors import MeasureError
from edgefuse.measure import statistics
from edgefuse.measure.statistics import Interval
from edgefuse.progress import Progress, silent
from edgefuse.runtime import pressure
from edgefuse.runtime.pressure import Pressure, Source, Watch

Item = TypeVar("Item")
Nanoseconds: TypeAlias = npt.NDArray[np.int64]

SETTLE, BURST = 12, 10
"""Untimed and timed calls of a round of `single_stream`."""

_NS_PER_MS = 1e6
_FASTEST = 0.01
_PARTS = 3
_OPENINGS = 3
_FEWEST_ROUNDS_OF_A_PART = 3
# Calls that give their processor away (to a GPU, to other threads) more often than this take less of it than of time.
_BLOCKING = 0.05
_READINGS = 51


@dataclass(frozen=True)
class Summary:
    """The latency of one callable. A percentile is None where MLPerf asks for more runs."""

    runs: int
    mean_ms: float
    p50_ms: float
    p90_ms: float | None
    p99_ms: float | None
    p999_ms: float | None


@dataclass(frozen=True)
class Latencies:
    """The latencies of an interleaved run.

    Attributes:
        nanoseconds: per name the duration of each timed call, int64 [rounds * burst], round after round.
        burst: the timed calls of a round.
        processor: the same in processor time of the calling thread; without those that wait for something else.
        pressure: what else the machine did meanwhile.
        openings: the rounds, from 0, before which the contenders were opened anew.
    """

    nanoseconds: Mapping[str, Nanoseconds]
    burst: int = 1
    processor: Mapping[str, Nanoseconds] = field(default_factory=dict)
    pressure: Pressure = field(default_factory=Pressure)
    openings: tuple[int, ...] = ()

    @property
    def rounds(self) -> int:
        """The number of rounds."""
        return len(next(iter(self.nanoseconds.values()))) // self.burst

    def milliseconds(self, name: str) -> statistics.Floats:
        """Return the duration of each timed call, float64 [rounds * burst]."""
        return self._of(name) / _NS_PER_MS

    def p50_ms(self, name: str) -> float:
        """Return the median."""
        return float(np.median(self.milliseconds(name)))

    def percentile_ms(self, name: str, fraction: float) -> float | None:
        """Return MLPerf's early-stopping estimate of a percentile (0.9 for p90), or None for too few rounds."""
        return statistics.percentile(self.milliseconds(name), fraction)

    def interval_ms(self, name: str, *, seed: int = 0) -> Interval:
        """Return the median with its 95 % bootstrap interval over rounds; see the module about what widens it."""

        def estimate(series: Nanoseconds) -> Interval:
            block = self.burst * statistics.block_length(self._by_round(series))
            return statistics.bootstrap(series / _NS_PER_MS, block=block, seed=seed)

        return self._widened([name], estimate, lambda series: series / _NS_PER_MS)

    def summary(self, name: str) -> Summary:
        """Return all figures of one callable."""
        return Summary(
            runs=len(self._of(name)),
            mean_ms=float(self.milliseconds(name).mean()),
            p50_ms=self.p50_ms(name),
            p90_ms=self.percentile_ms(name, 0.9),
            p99_ms=self.percentile_ms(name, 0.99),
            p999_ms=self.percentile_ms(name, 0.999),
        )

    def ratio(self, a: str, b: str, *, seed: int = 0) -> Interval:
        """Return how many times longer `a` takes than `b`: the speed-up of `b` over `a`.

        It is the median of the ratios of the rounds' medians, with a 95 % bootstrap interval (in blocks where rounds
        that follow each other are alike); see the module about what widens it.

        Args:
            a: the name of a contender.
            b: the name of another one.
            seed: of the bootstrap.
        """

        def estimate(ours: Nanoseconds, theirs: Nanoseconds) -> Interval:
            ratios = self._by_round(ours) / np.maximum(self._by_round(theirs), 1)
            return statistics.bootstrap(ratios, block=statistics.block_length(ratios), seed=seed)

        return self._widened([a, b], estimate, lambda ours, theirs: ours / max(theirs, 1.0))

    def drift(self) -> float | None:
        """Return by how much a contender's calls changed from the first third of the rounds to the last, at the most.

        None where there are too few rounds to tell.
        """
        if self.rounds < _PARTS * _FEWEST_ROUNDS_OF_A_PART:
            return None
        ends = [(float(parts[0]), float(parts[-1])) for parts in map(self._parts, self.nanoseconds.values())]
        return max(max(first, last, 1.0) / max(min(first, last), 1.0) for first, last in ends) - 1

    def under(self, watch: Watch) -> Latencies:
        """Return them with the pressure that a watch saw meanwhile."""
        return replace(self, pressure=watch.pressure(self.drift()))

    def _widened(
        self, names: Sequence[str], estimate: Callable[..., Interval], figure: Callable[..., float]
    ) -> Interval:
        """Return what the wall's clock says, widened by the processor's and, on a busy machine, by what it varies.

        Args:
            names: of the contenders.
            estimate: makes an interval of their series.
            figure: makes the same figure of one time of each, in ns.
        """
        wall = [self._of(name) for name in names]
        known = all(name in self.processor for name in names)
        clock = [self.processor[name] for name in names] if known else wall
        found, other = estimate(*wall), estimate(*clock)

        def each(at: int | Sequence[int]) -> list[float]:
            return [figure(*one) for one in zip(*(self._parts(series, at) for series in wall), strict=True)]

        found = found.reaching(other.low, other.high, *(each(self.openings) if self.openings else ()))
        if not self.pressure.busy:
            return found
        fastest = figure(*(float(np.quantile(series, _FASTEST)) for series in clock))
        return replace(found.reaching(fastest, *each(_PARTS)), marked=True)

    def _parts(self, series: Nanoseconds, at: int | Sequence[int] = _PARTS) -> list[float]:
        """Return the median of each of so many parts of the rounds, those that there are, or of what begins at some."""
        return [float(np.median(part)) for part in np.array_split(self._by_round(series), at) if len(part)]

    def _by_round(self, series: Nanoseconds) -> statistics.Floats:
        medians: statistics.Floats = np.median(series.reshape(-1, self.burst), axis=1)
        return medians

    def _of(self, name: str) -> Nanoseconds:
        if name not in self.nanoseconds:
            raise MeasureError("nothing of that name was timed", got=repr(name), expected=" or ".join(self.nanoseconds))
        return self.nanoseconds[name]


@dataclass(frozen=True)
class Interleaved:
    """Time callables in rounds: each round times a burst of calls of every one of them.

    Right before, the same callable is called untimed (`settle`): in a single stream the next query finds the caches as
    the last one left them, not as another contender did. What slows the machine down for a while slows all of them, so
    that their ratio holds. The garbage collector is off during the rounds. A run ends when it has both the rounds and
    the seconds asked for, or `max_seconds`.

    Attributes:
        warmup_rounds: rounds that are not counted, at least one.
        settle: untimed calls before each burst.
        burst: timed calls of a round.
        min_rounds: counted rounds, at the least.
        min_seconds: how long the counted rounds take together, at the least.
        max_seconds: no round begins after this time once there are `floor_rounds` of them; None for no limit.
        floor_rounds: the rounds that are made in any case.
        order: whether the order within a round is drawn anew each time or always the same.
        seed: of the order.
    """

    warmup_rounds: int = 3
    settle: int = 1
    burst: int = 1
    min_rounds: int = 64
    min_seconds: float = 0.5
    max_seconds: float | None = None
    floor_rounds: int = 11
    order: Literal["random", "round-robin"] = "random"
    seed: int = 0

    def __call__(
        self,
        subjects: Mapping[str, Callable[[], object]],
        progress: Progress = silent,
        *,
        source: Source | None = None,
        opened: Callable[[], Mapping[str, Callable[[], object]]] | None = None,
    ) -> Latencies:
        """Run the rounds.

        Args:
            subjects: what is timed, by name.
            progress: is told of every round.
            source: of the counters that tell whether the machine is busy; the system's by default.
            opened: closes the subjects and opens them anew: for every third of the rounds, if it is given.

        Raises:
            MeasureError: if there is nothing to time or no round to make.
        """
        if not subjects:
            raise MeasureError("there is nothing to time")
        if self.min_rounds < 1 or self.warmup_rounds < 1:
            raise MeasureError(
                "a timing needs rounds",
                got=f"{self.warmup_rounds} to warm up and {self.min_rounds} counted",
                expected="at least 1 of each",
            )
        calls = list(subjects.items())
        durations, openings = _Durations(), list[int]()
        rng = np.random.default_rng(self.seed)
        self._warm_up(calls)
        watch = Watch(source or pressure.SYSTEM)
        with _collector_off():
            watch.look(now=True)
            for done, share in self._rounds():
                if opened and done > 0 and share >= (len(openings) + 1) / _OPENINGS:
                    calls = list(opened().items())
                    openings.append(done)
                    self._warm_up(calls)
                order = rng.permutation(len(calls)) if self.order == "random" else range(len(calls))
                self._round([calls[index] for index in order], durations)
                watch.look()
                if done < self.min_rounds:  # how many more it takes to fill the seconds, nobody knows
                    progress(done + 1, self.min_rounds, "time rounds")
            watch.look(now=True)
        return replace(durations.latencies(self.burst), openings=tuple(openings)).under(watch)

    def _warm_up(self, calls: Sequence[tuple[str, Callable[[], object]]]) -> None:
        for _ in range(self.warmup_rounds):
            self._round(calls, _Durations())

    def _rounds(self) -> Iterator[tuple[int, float]]:
        """Yield the number of each round, from 0, and the share of the whole run that lies before it."""
        started = time.perf_counter()
        done = 0
        while True:
            elapsed = time.perf_counter() - started
            if done >= self.min_rounds and elapsed >= self.min_seconds:
                return
            enough = min(self.floor_rounds, self.min_rounds)
            if self.max_seconds is not None and elapsed >= self.max_seconds and done >= enough:
                return
            yield done, max(done / self.min_rounds, elapsed / self.max_seconds if self.max_seconds else 0.0)
            done += 1

    def _round(self, calls: Sequence[tuple[str, Callable[[], object]]], durations: _Durations) -> None:
        for name, call in calls:
            for _ in range(self.settle):
                call()
            durations.add(name, call, self.burst)


class _Durations:
    """What calls take, by two clocks."""

    def __init__(self) -> None:
        self._wall: dict[str, list[int]] = defaultdict(list)
        self._processor: dict[str, list[int]] = defaultdict(list)
        self._blocked: dict[str, float] = defaultdict(float)

    def add(self, name: str, call: Callable[[], object], calls: int) -> None:
        """Time some calls. The wall's clock is the inner one: reading the other takes up to a microsecond."""
        wall, processor = self._wall[name], self._processor[name]
        blocked = pressure.blocked()
        for _ in range(calls):
            ran = time.thread_time_ns()
            before = time.perf_counter_ns()
            call()
            took = time.perf_counter_ns() - before
            processor.append(time.thread_time_ns() - ran)
            wall.append(took)
        self._blocked[name] += pressure.blocked() - blocked

    def latencies(self, burst: int) -> Latencies:
        """Return all that was timed; the processor's time of those for whose calls it is a clock."""
        wall = {name: np.array(values, np.int64) for name, values in self._wall.items()}
        reading = _of_a_reading()
        processor = {name: np.maximum(np.array(self._processor[name], np.int64) - reading, 0) for name in wall}
        told = {
            name: series
            for name, series in processor.items()
            if self._blocked[name] <= _BLOCKING * len(series) and series.min() > 0  # some clocks tick in milliseconds
        }
        return Latencies(wall, burst, told)


def _of_a_reading() -> int:
    """Return the nanoseconds of processor time that reading the clocks adds to a call."""
    added = []
    for _ in range(_READINGS):
        ran, before = time.thread_time_ns(), time.perf_counter_ns()
        took = time.perf_counter_ns() - before
        added.append(time.thread_time_ns() - ran - took)
    return max(int(np.median(added)), 0)


def single_stream(*, rounds: int, max_seconds: float, seed: int = 0) -> Interleaved:
    """Return the timing of whole pipelines as in MLPerf's single stream: the next query comes at once.

    After another contender it takes a pipeline some ten calls until it is as fast as alone (decision 061).

    Args:
        rounds: counted ones, at the least.
        max_seconds: for all of them.
        seed: of the order within the rounds.
    """
    return Interleaved(
        warmup_rounds=1, settle=SETTLE, burst=BURST, min_rounds=rounds, max_seconds=max_seconds, seed=seed
    )


def in_turn(run: Callable[[Item], object], items: Sequence[Item]) -> Callable[[], object]:
    """Return a call that runs the next item in turn."""
    source = cycle(items)
    return lambda: run(next(source))


@contextmanager
def _collector_off() -> Iterator[None]:
    """Collect garbage now and not within the block."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
