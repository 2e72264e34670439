"""The parts of a stream by themselves: the ring buffer, the order, the clock, what is due."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefuse.runtime.stream.clock import Clock
from edgefuse.runtime.stream.ordering import Ordering
from edgefuse.runtime.stream.triggers import Triggers
from edgefuse.runtime.stream.window import Window


@given(st.integers(1, 9), st.lists(st.integers(0, 20), min_size=1, max_size=12), st.integers(1, 9))
def test_a_window_holds_the_last_steps(kept: int, lengths: list[int], asked: int) -> None:
    window = Window(kept, (), "float32")
    window.restart(100)
    everything = np.arange(100, 100 + sum(lengths), dtype=np.float32)
    done = 0
    for length in lengths:
        window.append(everything[done : done + length])
        done += length
        end = 100 + done
        assert (window.begin, window.end) == (max(100, end - kept), end)
        for at in range(100, end + 2):
            count = window.count(at, asked)
            first = max(at - asked, 100)
            if window.begin <= first < at <= end:
                assert count == at - first
                np.testing.assert_array_equal(window.last(at, count), everything[first - 100 : at - 100])
            else:
                assert count == 0


Chunks = st.lists(st.tuples(st.integers(0, 30), st.integers(1, 6)), min_size=1, max_size=30)


@given(Chunks, st.integers(0, 12), st.integers(0, 2), st.integers(1, 4))
def test_steps_come_in_order_and_once(chunks: list[tuple[int, int]], horizon: int, jitter: int, most: int) -> None:
    ordering = Ordering(horizon, jitter, max_items=most, max_bytes=1 << 20)
    taken = handed = 0
    next_step = None
    for place, length in chunks:
        taken += ordering.add(place, np.full(length, place, np.float32))
        for gap, chunk in ordering.ready():
            assert chunk.end - chunk.start == len(chunk.steps)
            assert gap == (0 if next_step is None else max(0, chunk.start - next_step))
            next_step = chunk.end if next_step is None else max(next_step, chunk.end)
            handed += 1
        assert taken - handed <= most, "what waits is bounded"
    handed += len(list(ordering.drain()))
    assert (handed, ordering.size_bytes) == (taken, 0)


def ordered(places: list[int], horizon: int = 40) -> list[int]:
    """Return the order in which chunks of ten steps come out."""
    ordering = Ordering(horizon, 0, max_items=100, max_bytes=1 << 20)
    found = []
    for place in places:
        ordering.add(place, np.zeros(10, np.float32))
        found += [chunk.start for _, chunk in ordering.ready()]
    return found


def test_what_is_in_order_does_not_wait_and_what_follows_a_gap_does() -> None:
    assert ordered([0, 10, 20]) == [0, 10, 20]
    assert ordered([0, 20, 30]) == [0]
    assert ordered([0, 20, 30, 10]) == [0, 10, 20, 30]
    assert ordered([0, 20, 30, 40, 50, 60]) == [0, 20, 30, 40, 50, 60], "the horizon is over"
    assert ordered([0, 20], horizon=0) == [0, 20]


def test_jitter_is_neither_a_gap_nor_an_overlap() -> None:
    ordering = Ordering(horizon=100, jitter=3, max_items=100, max_bytes=1 << 20)
    found = []
    for place in (0, 12, 19, 33):
        ordering.add(place, np.zeros(10, np.float32))
        found += [(gap, chunk.start) for gap, chunk in ordering.ready()]
    assert found == [(0, 0), (0, 10), (0, 20), (0, 30)]


def test_a_clock_that_jumps_gets_another_offset_and_one_odd_time_does_not() -> None:
    clock = Clock(jump_s=5.0)
    assert clock.read(10.0, None, 0.0) == (10.0, False)
    assert clock.read(10.1, 10.0, 0.0) == (10.1, False)
    assert clock.read(5000.0, 10.1, 0.0) == (None, False), "one odd time"
    assert clock.read(10.2, 10.1, 0.0) == (10.2, False)
    assert clock.read(0.5, 10.2, 0.0) == (None, False)
    assert clock.read(0.6, 10.2, 0.0) == (10.2, True), "a clock that begins again"
    assert clock.read(0.7, 10.2, 0.0)[0] == pytest.approx(10.3)
    assert clock.jumps == 1


def test_a_pause_is_no_jump_and_a_clock_may_begin_elsewhere() -> None:
    clock = Clock(jump_s=5.0)
    clock.read(0.0, None, 0.0)
    assert clock.read(60.0, 0.1, 59.8) == (60.0, False), "the machine's clock went on, too"
    assert Clock(jump_s=5.0).read(9_000.0, 60.0, 0.0) == (60.0, False)


def test_what_comes_rarely_gets_over_a_jump_as_soon() -> None:
    clock = Clock(jump_s=5.0)
    read = [clock.read(at + (3600.0 if at >= 20 else 0.0), at, 0.0)[0] for at in (0.0, 10.0, 20.0, 30.0, 40.0)]
    assert read == [0.0, 10.0, None, 30.0, 40.0]
    quiet = Clock(jump_s=5.0)
    assert quiet.read(0.0, 0.0, 0.0)[0] == 0.0
    assert [quiet.read(3600.0 + at, 0.0, at)[0] for at in (10.0, 30.0)] == [None, 0.0], "by the machine's clock, too"
    odd = Clock(jump_s=5.0)
    assert [odd.read(given, at, 0.0)[0] for given, at in ((0.0, 0.0), (900.0, 1.0), (950.0, 2.0))] == [0.0, None, None]


def test_a_clock_that_falls_behind_is_set_and_what_was_held_back_keeps_its_times() -> None:
    slow = Clock(jump_s=5.0)
    lags = [at - (slow.read(0.99 * at, at, 0.0)[0] or 0.0) for at in np.arange(0.0, 3000.0, 0.1).tolist()]
    assert max(lags) < 5.2
    assert slow.jumps == 5
    held = Clock(jump_s=5.0)
    assert held.read(0.0, 0.0, 0.0)[0] == 0.0
    times = [step / 10 for step in range(1, 200)]
    assert [held.read(time_s, 20.0 + time_s / 2, 0.0)[0] for time_s in times] == times, "it catches up"
    assert held.jumps == 0


@pytest.mark.parametrize(
    ("hop", "reached", "due", "skipped"),
    [
        (0.1, [0.05, 0.1, 0.31], [0.1, 0.2, 0.3], 0),
        (0.1, [100.0], [99.7, 99.8, 99.9, 100.0], 996),
        (0.0, [1.0, 1.0, 2.0], [1.0, 1.0, 2.0], 0),
    ],
)
def test_what_is_due(hop: float, reached: list[float], due: list[float], skipped: int) -> None:
    triggers = Triggers(hop, backlog=4)
    for time_s in reached:
        triggers.reach(time_s, 0.0, since_s=7.0)
    found: list[Any] = []
    while (one := triggers.take()) is not None:
        found.append(one.time_s)
    assert found == pytest.approx(due)
    assert triggers.skipped == skipped
