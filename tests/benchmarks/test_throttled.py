"""The line "throttled" of `make soak`: what it does, on the tiny bundle for a moment, and what it makes of a record."""

from __future__ import annotations

import math
import os
import signal
from itertools import count
from pathlib import Path

import numpy as np
import pytest

import edgefuse
from benchmarks.soak.lines.throttled import Record, Work, drive, figures
from benchmarks.soak.throttle import Stopping, throttle
from edgefuse.bundle.manifest import Manifest
from edgefuse.runtime.ladder import Ladder
from tests.runtime.ladder.simulated import manifest_of


def test_work_is_done_at_the_rung_that_the_ladder_says(tiny_bundle: Path) -> None:
    with edgefuse.load(tiny_bundle) as pipeline:
        inputs = pipeline.preprocess(image=np.zeros((8, 8), np.uint8))
        (logits,) = pipeline.infer(inputs).values()
        work = Work([(inputs, int(logits.argmax()))], count=2, period_s=0.01)
        ladder, looks = Ladder(pipeline.manifest), count()
        found = drive(pipeline, work, ladder, seconds=0.1, clock=lambda: next(looks) / 1000)  # late for nothing
    assert len(found.due_s) == 10
    assert found.late == [False] * 10
    assert found.right == [1.0] * 10
    assert [due_s for due_s, _ in found.processor_s] == found.due_s
    assert all(taken_s > 0 for _, taken_s in found.processor_s)
    assert sum(ladder.answered) == len(found.right)


def record(missed: tuple[float, float], changes: list[tuple[float, str]], right: float) -> Record:
    """Return a run of 50 s with a step each 0.1 s, late between two times."""
    due_s = [number / 10 for number in range(500)]
    taken_s = [(one, 0.02 if 20 <= one < 21 else 0.01) for one in due_s]
    return Record(due_s, [missed[0] <= one < missed[1] for one in due_s], [right] * 500, changes, taken_s)


@pytest.mark.parametrize(
    ("late", "changes", "right", "ok"),
    [
        ((10.0, 11.0), [(11.0, "reduced-2"), (33.0, "fast")], 0.95, True),
        ((10.0, 13.0), [(13.0, "reduced-2"), (33.0, "fast")], 0.95, False),  # too late
        ((10.0, 11.0), [(11.0, "reduced-2"), (41.0, "fast")], 0.95, False),  # too long
        ((10.0, 11.0), [(11.0, "reduced-1"), (12.0, "reduced-2"), (33.0, "fast")], 0.95, False),  # too often
        ((10.0, 11.0), [(11.0, "reduced-2"), (33.0, "fast")], 0.5, False),  # not what was promised
        ((10.0, 11.0), [(11.0, "reduced-2")], 0.95, False),  # never
    ],
)
def test_what_a_record_shows(
    tiny_manifest: Manifest, late: tuple[float, float], changes: list[tuple[float, str]], right: float, ok: bool
) -> None:
    ladder = Ladder(manifest_of(tiny_manifest))
    ladder.observe(0.0, 0.01, 0.1)
    work = Work([(edgefuse.Inputs({}, ()), 0)] * 100, count=1, period_s=0.1)
    without = record((10.0, 30.0), [], 0.95)
    found, shown = figures(record(late, changes, right), without, ladder, work)
    assert shown is ok
    assert found["missed_without"] == 1.0
    assert found["accuracy_promised"] == pytest.approx(0.95)
    assert found["missed_after"] == 0.0
    assert found["processor_ms"] == pytest.approx({"p50": 10.0, "p90": 10.0, "p99": 20.0})


def test_a_process_that_was_stopped_by_turns_runs_again() -> None:
    stopping = Stopping()
    received: list[int] = []
    before = signal.signal(signal.SIGCONT, lambda number, _: received.append(number))
    try:
        stopping.begin(0.1)
        stopping._process.wait()  # type: ignore[union-attr]
        stopping.end()
    finally:
        signal.signal(signal.SIGCONT, before)
    assert received


def test_a_group_of_its_own_is_left_behind_by_nobody() -> None:
    def groups() -> set[str]:
        return {str(one) for one in Path("/sys/fs/cgroup").glob("**/edgefuse-soak-*")}

    with throttle() as how:
        assert how.name
        how.begin(0.01)
        how.end()
    assert not [one for one in groups() if one.endswith(str(os.getpid()))]
    assert math.isinf(Record().rest_s)
