"""Half of the processor is taken for 20 s: late answers with a ladder and without, the price, and how soon it is back.

The load is what the first rung needs 70 % of a core for: as many predictions a step as that takes, each of all
modalities, due before the next step; what cannot begin before that is left out, and late. Answers are held against the
labels of the test split.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import mean, median
from typing import Any

import numpy as np

import edgefuse
from benchmarks.soak.line import Line, Setting
from benchmarks.soak.throttle import Throttle, throttle
from edgefuse.bundle.spec import subset_name
from edgefuse.datasets import digits
from edgefuse.runtime.ladder import Ladder, System

RECIPES = ("digits/ladder.toml",)

BEFORE_S, THROTTLED_S, AFTER_S = 10.0, 20.0, 20.0
LOAD = 0.7
PERIOD_S = 0.02
MOST_MISSED = 0.01
SETTLED_S = 2.0
BACK_S = 10.0
REST_S = 5.0
_TIMED = 300


@dataclass(frozen=True)
class Work:
    """What is to be predicted.

    Attributes:
        items: inputs of the test split, with the index of the label that is right.
        count: of predictions in a step.
        period_s: between two steps, and until a step's answers are late.
    """

    items: Sequence[tuple[edgefuse.Inputs, int]]
    count: int
    period_s: float


@dataclass
class Record:
    """What became of each step.

    Attributes:
        due_s: when it was due.
        late: whether it was late, or left out.
        right: the share of right answers, of each that was not left out.
        changes: of the rung.
        processor_s: when each that was not left out was due, and the processor time that it took.
    """

    due_s: list[float] = field(default_factory=list)
    late: list[bool] = field(default_factory=list)
    right: list[float] = field(default_factory=list)
    changes: list[tuple[float, str]] = field(default_factory=list)
    processor_s: list[tuple[float, float]] = field(default_factory=list)

    def missed(self, from_s: float, to_s: float) -> float:
        """Return the share of the steps due between two times that were late."""
        found = [late for due_s, late in zip(self.due_s, self.late, strict=True) if from_s <= due_s < to_s]
        return mean(found) if found else math.nan

    def processor_ms(self, from_s: float, to_s: float) -> dict[str, float]:
        """Return what the steps due between two times took of the processor: a machine may be slower by itself."""
        found = [taken_s for due_s, taken_s in self.processor_s if from_s <= due_s < to_s]
        return {f"p{share}": 1000 * float(np.percentile(found, share)) for share in (50, 90, 99) if found}

    @property
    def rest_s(self) -> float:
        """The shortest time between two changes; infinite if there are fewer."""
        return min((later[0] - one[0] for one, later in pairwise(self.changes)), default=math.inf)


def work_of(pipeline: edgefuse.Pipeline) -> Work:
    """Return work that the pipeline's rung needs `LOAD` of a core for, from what it takes now."""
    items = [(pipeline.preprocess(**item.inputs), int(item.target)) for item in digits.load().test]
    times_s = []
    for number in range(_TIMED):
        begun_s = time.perf_counter()
        pipeline.infer(items[number % len(items)][0])
        times_s.append(time.perf_counter() - begun_s)
    each_s = median(times_s)
    count = max(round(LOAD * PERIOD_S / each_s), 1)
    return Work(items, count, count * each_s / LOAD)


def drive(
    pipeline: edgefuse.Pipeline,
    work: Work,
    ladder: Ladder | None,
    seconds: float,
    clock: Callable[[], float] = time.monotonic,
) -> Record:
    """Do the work step by step, at the rung that the ladder says.

    Args:
        pipeline: at the first rung.
        work: to be done.
        ladder: the first rung throughout if None.
        seconds: how long.
        clock: tells the time.
    """
    found, begun_s, taken = Record(), clock(), 0
    for number in range(int(seconds / work.period_s)):
        due_s = begun_s + number * work.period_s
        time.sleep(max(due_s - clock(), 0.0))
        found.due_s.append(due_s - begun_s)
        if clock() >= due_s + work.period_s:
            found.late.append(True)
            continue
        right, before_s = 0, time.thread_time()
        for _ in range(work.count):
            inputs, target = work.items[taken % len(work.items)]
            (logits,) = pipeline.infer(inputs).values()
            right += int(logits.argmax()) == target
            taken += 1
        now_s = clock()
        found.processor_s.append((due_s - begun_s, time.thread_time() - before_s))
        found.late.append(now_s > due_s + work.period_s)
        found.right.append(right / work.count)
        if ladder is not None:
            ladder.observe(now_s, now_s - due_s, work.period_s)
            if change := ladder.decide(now_s):
                found.changes.append((now_s - begun_s, change.rung))
                pipeline = pipeline.at(change.rung)
    return found


def throttled(how: Throttle, run: Callable[[], Record]) -> Record:
    """Return what a run came to from which half of the processor was taken in between."""

    def take() -> None:
        time.sleep(BEFORE_S)
        how.begin(THROTTLED_S)
        time.sleep(THROTTLED_S)
        how.end()

    taking = threading.Thread(target=take)
    taking.start()
    try:
        return run()
    finally:
        taking.join()


def figures(with_ladder: Record, without: Record, ladder: Ladder, work: Work) -> tuple[dict[str, Any], bool]:
    """Return the figures of two runs, and whether they show what they must.

    Args:
        with_ladder: the run with it.
        without: the run at the first rung throughout.
        ladder: of the first run, as that left it.
        work: that was done.
    """
    end_s = BEFORE_S + THROTTLED_S
    settled = (BEFORE_S + SETTLED_S, end_s)
    full = ladder.steps[0].price[0]
    paid, promised = mean(with_ladder.right), ladder.promised()[full.subset]
    interval = 1.96 * math.sqrt(promised * (1 - promised) / len(work.items))
    back = [now_s for now_s, rung in with_ladder.changes if rung == ladder.steps[0].rung and now_s >= end_s]
    back_s = back[0] - end_s if back else math.inf
    missed = with_ladder.missed(*settled)
    ok = (
        missed <= MOST_MISSED and back_s <= BACK_S and with_ladder.rest_s >= REST_S and abs(paid - promised) <= interval
    )
    return {
        "predictions_per_step": work.count,
        "deadline_ms": 1000 * work.period_s,
        "missed_with_ladder": missed,
        "missed_without": without.missed(*settled),
        "missed_before": with_ladder.missed(0.0, BEFORE_S),
        "missed_after": with_ladder.missed(end_s + BACK_S, math.inf),
        "processor_ms": with_ladder.processor_ms(*settled),
        "changes": [f"{now_s:.1f} s: {rung}" for now_s, rung in with_ladder.changes],
        "shortest_rest_s": with_ladder.rest_s if math.isfinite(with_ladder.rest_s) else None,
        "back_after_s": back_s if math.isfinite(back_s) else None,
        "accuracy_paid": paid,
        "accuracy_promised": promised,
        "interval_95": interval,
    }, ok


def run(setting: Setting) -> Line:
    """Run with the ladder and without."""
    seconds = BEFORE_S + THROTTLED_S + AFTER_S
    with (
        edgefuse.load(setting.bundle(RECIPES[0]), cache=False) as pipeline,
        throttle() as how,
    ):
        model = pipeline.manifest.model
        work, ladder = work_of(pipeline), Ladder(pipeline.manifest, System())
        steps = {step.rung: step.time for step in ladder.steps}
        assert ladder.steps[0].price[0].subset == subset_name(tuple(one.name for one in model.modalities))
        without = throttled(how, lambda: drive(pipeline, work, None, seconds))
        with_ladder = throttled(how, lambda: drive(pipeline, work, ladder, seconds))
        found, ok = figures(with_ladder, without, ladder, work)
    return Line(line="throttled", figures={"throttled_by": how.name, "rungs_ms": steps} | found, ok=ok)
