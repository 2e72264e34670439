"""Time several callables against each other in one run, and say how sure the comparison is."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle
from typing import Literal, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from edgefuse.errors import MeasureError
from edgefuse.measure import statistics
from edgefuse.measure.statistics import Interval
from edgefuse.progress import Progress, silent

Item = TypeVar("Item")
Nanoseconds: TypeAlias = npt.NDArray[np.int64]

SETTLE, BURST = 12, 10
"""Untimed and timed calls of a round of `single_stream`."""

_NS_PER_MS = 1e6


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
    """What an interleaved run measured.

    Attributes:
        nanoseconds: per name the duration of each timed call, int64 [rounds * burst], round after round.
        burst: the timed calls of a round.
    """

    nanoseconds: Mapping[str, Nanoseconds]
    burst: int = 1

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
        """Return the median with its 95 % bootstrap interval."""
        series = self.milliseconds(name)
        return statistics.bootstrap(series, block=statistics.block_length(series), seed=seed)

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
        that follow each other are alike).
        """
        ratios = self._by_round(a) / np.maximum(self._by_round(b), 1)
        return statistics.bootstrap(ratios, block=statistics.block_length(ratios), seed=seed)

    def _by_round(self, name: str) -> statistics.Floats:
        medians: statistics.Floats = np.median(self._of(name).reshape(-1, self.burst), axis=1)
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

    def __call__(self, subjects: Mapping[str, Callable[[], object]], progress: Progress = silent) -> Latencies:
        """Run the rounds.

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
        durations: dict[str, list[int]] = {name: [] for name in subjects}
        rng = np.random.default_rng(self.seed)
        for _ in range(self.warmup_rounds):
            self._round(calls, {name: [] for name in subjects})
        with _collector_off():
            for done in self._rounds():
                order = rng.permutation(len(calls)) if self.order == "random" else range(len(calls))
                self._round([calls[index] for index in order], durations)
                if done < self.min_rounds:  # how many more it takes to fill the seconds, nobody knows
                    progress(done + 1, self.min_rounds, "time rounds")
        return Latencies({name: np.array(values, np.int64) for name, values in durations.items()}, self.burst)

    def _rounds(self) -> Iterator[int]:
        started = time.perf_counter()
        done = 0
        while True:
            elapsed = time.perf_counter() - started
            if done >= self.min_rounds and elapsed >= self.min_seconds:
                return
            enough = min(self.floor_rounds, self.min_rounds)
            if self.max_seconds is not None and elapsed >= self.max_seconds and done >= enough:
                return
            yield done
            done += 1

    def _round(self, calls: Sequence[tuple[str, Callable[[], object]]], durations: Mapping[str, list[int]]) -> None:
        for name, call in calls:
            for _ in range(self.settle):
                call()
            for _ in range(self.burst):
                before = time.perf_counter_ns()
                call()
                durations[name].append(time.perf_counter_ns() - before)


def single_stream(*, rounds: int, max_seconds: float, seed: int = 0) -> Interleaved:
    """Return the timing of whole pipelines as in MLPerf's single stream: the next query comes at once.

    After another contender it takes a pipeline some ten calls until it is as fast as alone (decision 061).
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
