from __future__ import annotations

import gc
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from edgefuse.errors import MeasureError
from edgefuse.measure.latency import Interleaved, Latencies, Nanoseconds, single_stream
from edgefuse.measure.rungs import P99_ROUNDS
from edgefuse.runtime.pressure import Pressure, Reading


def test_each_round_calls_every_subject_once() -> None:
    calls: list[str] = []
    timing = Interleaved(warmup_rounds=1, settle=0, min_rounds=20, min_seconds=0)
    latencies = timing({name: lambda name=name: calls.append(name) for name in "abc"})  # type: ignore[misc]
    assert latencies.rounds == 20
    rounds = [tuple(calls[i : i + 3]) for i in range(3, len(calls), 3)]
    assert len(rounds) == 20
    assert all(sorted(one) == ["a", "b", "c"] for one in rounds)
    assert len(set(rounds)) > 1, "the order is drawn anew"


def test_round_robin_keeps_the_order() -> None:
    calls: list[str] = []
    timing = Interleaved(warmup_rounds=1, settle=0, min_rounds=5, min_seconds=0, order="round-robin")
    timing({name: lambda name=name: calls.append(name) for name in "ba"})  # type: ignore[misc]
    assert calls == ["b", "a"] * 6


def test_each_timed_call_follows_untimed_ones_of_its_own() -> None:
    calls: list[str] = []
    timing = Interleaved(warmup_rounds=1, settle=2, min_rounds=2, min_seconds=0, order="round-robin")
    latencies = timing({name: lambda name=name: calls.append(name) for name in "ba"})  # type: ignore[misc]
    assert calls == ["b", "b", "b", "a", "a", "a"] * 3
    assert latencies.rounds == 2


def test_a_round_times_a_burst_of_calls_and_compares_medians() -> None:
    calls: list[str] = []
    timing = Interleaved(warmup_rounds=1, settle=1, burst=3, min_rounds=2, min_seconds=0, order="round-robin")
    latencies = timing({name: lambda name=name: calls.append(name) for name in "ba"})  # type: ignore[misc]
    assert calls == ["b"] * 4 + ["a"] * 4 + ["b"] * 4 + ["a"] * 4 + ["b"] * 4 + ["a"] * 4
    assert (latencies.rounds, latencies.burst, latencies.summary("a").runs) == (2, 3, 6)
    spiked = Latencies({"a": np.array([6, 6, 99, 8, 1, 8]), "b": np.array([3, 50, 3, 4, 4, 4])}, burst=3)
    assert spiked.ratio("a", "b").value == 2, "one slow call does not make a round"


def test_a_single_stream_has_the_calls_that_a_p99_needs() -> None:
    timing = single_stream(rounds=P99_ROUNDS, max_seconds=60)
    assert timing({"nothing": int}).summary("nothing").p99_ms is not None
    assert replace(timing, min_rounds=P99_ROUNDS - 1, min_seconds=0)({"nothing": int}).summary("nothing").p99_ms is None


def test_a_run_has_the_rounds_and_the_seconds_that_were_asked_for() -> None:
    began = time.perf_counter()
    latencies = Interleaved(settle=0, min_rounds=2, min_seconds=0.2)({"nap": lambda: time.sleep(0.004)})
    assert latencies.rounds >= 2
    assert latencies.milliseconds("nap").min() >= 4
    assert time.perf_counter() - began >= 0.2


def test_a_run_ends_at_its_limit_with_the_rounds_that_a_median_needs() -> None:
    timing = Interleaved(min_rounds=1000, max_seconds=0.0)
    assert timing({"nap": lambda: time.sleep(0.001)}).rounds == timing.floor_rounds


def test_the_collector_is_off_during_the_rounds_and_on_again_after_an_error() -> None:
    seen = Counter[bool]()
    timing = Interleaved(warmup_rounds=1, settle=0, min_rounds=3, min_seconds=0)
    timing({"look": lambda: seen.update([gc.isenabled()])})
    assert seen == {True: 1, False: 3}

    def fail_later() -> None:
        if not gc.isenabled():
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        timing({"fail": fail_later})
    assert gc.isenabled()


def test_progress_is_told_of_every_round() -> None:
    told: list[tuple[int, int, str]] = []
    Interleaved(min_rounds=3, min_seconds=0)({"a": int}, lambda *values: told.append(values))
    assert told == [(1, 3, "time rounds"), (2, 3, "time rounds"), (3, 3, "time rounds")]
    told.clear()
    Interleaved(min_rounds=2, min_seconds=0.05)({"a": int}, lambda *values: told.append(values))
    assert len(told) == 2, "rounds that only fill the time are not told of"


def test_the_ratio_is_paired_by_round() -> None:
    weather = np.random.default_rng(0).lognormal(0, 1, 200)
    latencies = Latencies({"slow": (3e6 * weather).astype(np.int64), "fast": (1e6 * weather).astype(np.int64)})
    ratio = latencies.ratio("slow", "fast")
    assert ratio.value == pytest.approx(3, rel=1e-3)
    assert ratio.high - ratio.low < 1e-3, "what slows both does not widen the interval"
    assert ratio == latencies.ratio("slow", "fast")


def test_a_summary_leaves_out_what_too_few_rounds_cannot_tell() -> None:
    few = Latencies({"a": np.arange(1, 101) * 1_000_000}).summary("a")
    assert (few.runs, few.p50_ms, few.p99_ms, few.p999_ms) == (100, 50.5, None, None)
    assert few.p90_ms == 98.0
    assert Latencies({"a": np.arange(1, 664) * 1_000_000}).summary("a").p99_ms == 663.0


def test_an_interval_of_the_median_holds_it() -> None:
    latencies = Latencies({"a": np.random.default_rng(1).integers(900, 1100, 300) * 1000})
    interval = latencies.interval_ms("a")
    assert interval.low <= interval.value == latencies.p50_ms("a") <= interval.high


@pytest.mark.parametrize(
    ("timing", "message"),
    [(Interleaved(), "there is nothing to time"), (Interleaved(min_rounds=0), "got 3 to warm up and 0 counted")],
)
def test_a_timing_says_what_it_needs(timing: Interleaved, message: str) -> None:
    with pytest.raises(MeasureError, match=message):
        timing({} if timing.min_rounds else {"a": int})


def test_a_name_that_was_not_timed_is_an_error() -> None:
    with pytest.raises(MeasureError, match="nothing of that name was timed: got 'c', expected a or b"):
        Latencies({"a": np.ones(3, np.int64), "b": np.ones(3, np.int64)}).ratio("a", "c")


BUSY = Pressure(waited=0.7)
LONG_NS, SHORT_NS, TURN_NS = 20_000_000, 4_000_000, 3_000_000


def preempted(truth_ns: int, calls: int, rng: np.random.Generator) -> tuple[Nanoseconds, Nanoseconds]:
    """Simulate calls on a processor that others have for 10 ms after every 3 ms of ours: durations by both clocks."""
    processor = (truth_ns * rng.lognormal(0.02, 0.02, calls)).astype(np.int64)
    turns = ((rng.integers(0, TURN_NS, calls) + processor) // TURN_NS).astype(np.int64)
    return processor + 10_000_000 * turns, processor


def loaded(busy: bool = True, both: bool = True) -> Latencies:
    rng = np.random.default_rng(0)
    (long, long_ran), (short, short_ran) = (preempted(ns, 670, rng) for ns in (LONG_NS, SHORT_NS))
    ran = {"long": long_ran, "short": short_ran} if both else {}
    return Latencies({"long": long, "short": short}, 10, ran, BUSY if busy else Pressure())


def test_preemption_falsifies_a_ratio_and_leaves_its_interval_tight() -> None:
    blind = loaded(busy=False, both=False).ratio("long", "short")
    assert blind.low > 1.1 * LONG_NS / SHORT_NS
    assert blind.high - blind.low < 0.1 * blind.value
    assert not blind.marked


def test_the_interval_holds_what_the_processors_clock_says() -> None:
    truth = LONG_NS / SHORT_NS
    for busy in (False, True):
        found = loaded(busy)
        ratio, p50 = found.ratio("long", "short"), found.interval_ms("long")
        assert ratio.low <= truth <= ratio.high
        assert p50.low <= 1.03 * LONG_NS / 1e6 <= p50.high
        assert ratio.marked == p50.marked == busy


def test_a_mark_comes_with_what_the_fastest_calls_and_every_part_of_the_run_say() -> None:
    rng = np.random.default_rng(1)
    slow = np.where(np.arange(300) % 5 == 0, 1.0, rng.uniform(1.4, 1.6, 300)) * 3e6
    series = {"a": slow.astype(np.int64), "b": np.full(300, 1_000_000)}
    plain, marked = (Latencies(series, pressure=one).ratio("a", "b") for one in (Pressure(), BUSY))
    assert plain.low > 4, "a median does not see the fifth of the calls that were undisturbed"
    assert (marked.value, marked.high) == (plain.value, plain.high)
    assert marked.low == 3
    assert marked.marked


def test_a_drift_is_seen_in_whichever_contender_it_is() -> None:
    steady, rising = np.full(90, 1_000_000), np.linspace(1e6, 2e6, 90).astype(np.int64)
    assert Latencies({"a": steady, "b": steady}).drift() == 0
    up, down = (Latencies({"a": steady, "b": one}).drift() for one in (rising, rising[::-1]))
    assert up == down == pytest.approx(0.57, abs=0.02)
    assert Latencies({"a": rising[:8]}).drift() is None, "too few rounds to tell"
    assert Latencies({"a": rising}, burst=30).drift() is None


class Counted:
    """A source in which this process waits for a share of its time."""

    processors = 2

    def __init__(self, waited: float) -> None:
        self.waited = waited
        self.asked = 0

    def __call__(self) -> Reading:
        self.asked += 1
        ns = 1_000_000 * self.asked
        return Reading(at_ns=ns, processor_ns=ns, threads={1: (round((1 - self.waited) * ns), round(self.waited * ns))})


@pytest.mark.parametrize(("waited", "busy"), [(0.01, False), (0.4, True)])
def test_every_timing_is_watched(waited: float, busy: bool) -> None:
    source = Counted(waited)
    timing = Interleaved(warmup_rounds=1, min_rounds=30, min_seconds=0.2)
    latencies = timing({"a": lambda: sum(range(500)), "b": lambda: sum(range(900))}, source=source)
    assert source.asked >= 3, "at the start, between rounds and at the end"
    assert latencies.pressure.waited == pytest.approx(waited, abs=0.01)
    if busy:
        assert latencies.ratio("a", "b").marked


def test_calls_that_give_their_processor_away_have_one_clock() -> None:
    def work() -> None:
        end = time.thread_time() + 0.002
        while time.thread_time() < end:
            pass

    timing = Interleaved(min_rounds=5, min_seconds=0)
    for _ in range(10):  # another thread of this process may ask for it, but not each time
        if clocks := list(timing({"nap": lambda: time.sleep(0.004), "work": work}).processor):
            break
    assert clocks == ["work"]


def test_contenders_are_opened_anew_for_every_third_and_the_interval_holds_what_each_opening_says() -> None:
    opened: list[int] = []
    used: list[int] = []

    def again() -> dict[str, Callable[[], object]]:
        opened.append(len(opened) + 1)
        return {"a": partial(used.append, opened[-1])}

    timing = Interleaved(warmup_rounds=1, settle=0, min_rounds=9, min_seconds=0)
    latencies = timing({"a": partial(used.append, 0)}, opened=again)
    assert (latencies.openings, opened) == ((3, 6), [1, 2])
    assert used == [0] * 4 + [1] * 4 + [2] * 4, "each is warmed up"
    lucky = {"a": np.full(9, 100), "b": np.array([100] * 3 + [98] * 3 + [103] * 3)}
    found = Latencies(lucky, openings=(3, 6)).ratio("a", "b")
    assert found.low == pytest.approx(100 / 103)
    assert found.high == pytest.approx(100 / 98)
