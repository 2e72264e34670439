"""The batch that fills a card, interleaved timings at a batch, and answers against the CPU's."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu_reference.card import Card, Place, fetched
from benchmarks.gpu_reference.models import DISTINCT, Subject
from benchmarks.gpu_reference.variants import BASE, FAILURES, TF32, TOLERANCES, Forward, Precision, forward
from edgefuse.measure.latency import Interleaved, Latencies
from edgefuse.measure.statistics import Interval

ENOUGH = 1.05
"""A doubled batch whose throughput is not this many times the best so far does not count as a rise."""

_PROBES = 5
_NS_PER_S = 1e9

Row = dict[str, Any]
Maker = Callable[[Place], Forward]


@dataclass(frozen=True)
class Budget:
    """How much is measured.

    Attributes:
        rounds: of interleaved timing per batch, at the most.
        seconds: of interleaved timing per batch, after which no round begins.
        max_batch: the largest batch that is tried.
        ends: on the clock of `time.monotonic`, when nothing new is begun.
    """

    rounds: int
    seconds: float
    max_batch: int
    ends: float

    @property
    def left(self) -> float:
        """The seconds that are left."""
        return self.ends - time.monotonic()


class Runner:
    """A variant at a place: everything that is timed of it."""

    def __init__(self, call: Forward, place: Place, tf32: bool) -> None:
        self._call, self._place, self._tf32 = call, place, tf32
        TF32.allow(tf32)
        self.outputs = call(*place.there)
        self.back = tuple(place.card.pinned(output.cpu()) for output in self.outputs)

    def compute(self) -> None:
        """Compute on what is there, and wait."""
        TF32.allow(self._tf32)
        self.outputs = self._call(*self._place.there)
        self._place.card.wait()

    def whole(self) -> None:
        """Send the batch, compute, fetch the answers, and wait once."""
        TF32.allow(self._tf32)
        self._place.send()
        self.outputs = self._call(*self._place.there)
        fetched(self.outputs, self.back)
        self._place.card.wait()

    def fetch(self) -> None:
        """Fetch the answers, and wait."""
        fetched(self.outputs, self.back)
        self._place.card.wait()


def fill(card: Card, subject: Subject, budget: Budget) -> dict[str, Any]:
    """Double the batch until the throughput of eager float32 stops rising or memory is short.

    Args:
        card: to fill.
        subject: that fills it.
        budget: how far to go.

    Returns:
        `batch`, the one with the highest throughput, `why` it ended, and the `curve`.
    """
    curve: list[dict[str, float]] = []
    best, batch, flat, why = 0.0, 1, 0, f"the largest batch to try, {budget.max_batch}, was reached"
    while batch <= budget.max_batch:
        if budget.left < 0:
            why = "the time was up"
            break
        try:
            rate = batch / _seconds(card, subject, batch)
        except (torch.OutOfMemoryError, MemoryError):
            why = f"memory was short at {batch}"
            break
        except FAILURES as error:  # a kernel that indexes with 32 bits, say
            why = f"batch {batch} failed, {reason(error)}"
            break
        finally:
            card.forget()
        curve.append({"batch": batch, "items_per_s": rate})
        flat = 0 if rate > ENOUGH * best else flat + 1
        best = max(best, rate)
        if flat == 2:
            why = "throughput had stopped rising"
            break
        batch *= 2
    chosen = max(curve, key=lambda point: point["items_per_s"], default={"batch": 1})
    return {"batch": int(chosen["batch"]), "why": why, "curve": curve}


def _seconds(card: Card, subject: Subject, batch: int) -> float:
    place = Place(card, subject, batch)
    runner = Runner(forward(BASE, subject, place), place, tf32=False)
    runner.compute()
    took = []
    for _ in range(_PROBES):
        before = time.perf_counter_ns()
        runner.compute()
        took.append(time.perf_counter_ns() - before)
    return sorted(took)[_PROBES // 2] / _NS_PER_S


def measure(
    place: Place,
    subject: Subject,
    wanted: Mapping[str, tuple[Precision, Maker]],
    budget: Budget,
    answers: tuple[Tensor, ...],
) -> list[Row]:
    """Make every variant at a batch, hold it to the CPU and time all of them, interleaved.

    Args:
        place: where the batch lies.
        subject: that is measured.
        wanted: the precision and the maker of each variant, by name; one that fails leaves its reason.
        budget: how long.
        answers: of the CPU to the distinct items.
    """
    rows = [_row(place.batch, name, precision) for name, (precision, _) in wanted.items()]
    runners: dict[str, Runner] = {}
    for row, (name, (precision, make)) in zip(rows, wanted.items(), strict=True):
        try:
            runner = Runner(make(place), place, precision == "tf32")
            row |= _agreement(runner, place, precision, answers)
        except FAILURES as error:
            row["error"] = reason(error)
            place.card.forget()
        else:
            runners[name] = runner
    if runners:
        latencies = _timed(place, runners, budget)
        for row in rows:
            if row["system"] in runners:
                row |= _figures(latencies, row["system"], place.batch)
    return rows


def reason(error: BaseException) -> str:
    """Return the first line of what a library said, and what kind of error it was."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason given")
    return f"{type(error).__name__}: {line[:300]}"


def answers_of(subject: Subject) -> tuple[Tensor, ...]:
    """Return what the CPU answers to the distinct items in float32."""
    outputs: tuple[Tensor, ...] = subject.network.to("cpu")(*subject.inputs)
    return outputs


def _row(batch: int, name: str, precision: Precision) -> Row:
    absolute, relative = TOLERANCES[precision]
    empty = ("whole", "compute", "to_device", "to_host", "items_per_s", "speedup", "max_abs_error", "agrees", "error")
    about = {"batch": batch, "system": name, "precision": precision}
    return about | {"tolerance": {"absolute": absolute, "relative": relative}} | dict.fromkeys(empty)


def _agreement(runner: Runner, place: Place, precision: Precision, answers: tuple[Tensor, ...]) -> Row:
    """Return the largest error over the distinct items, and whether it is within the tolerance."""
    error, agrees = 0.0, True
    absolute, relative = TOLERANCES[precision]
    for first in range(0, DISTINCT, place.batch):
        place.load(first)
        runner.whole()
        for found, answer in zip(runner.back, answers, strict=True):
            count = min(place.batch, DISTINCT - first)
            off = float((found[:count].float() - answer[first : first + count]).abs().max())
            if not math.isfinite(off):
                raise ValueError("its answers are not finite")
            error = max(error, off)
            agrees &= off <= absolute + relative * float(answer.abs().max())
    place.load(0)
    return {"max_abs_error": error, "agrees": agrees}


def _timed(place: Place, runners: Mapping[str, Runner], budget: Budget) -> Latencies:
    """Time the transfers once, which are the same for all, and computing and the whole of every variant."""

    def send() -> None:
        place.send()
        place.card.wait()

    contenders: dict[str, Callable[[], None]] = {"send": send, "fetch": next(iter(runners.values())).fetch}
    for name, runner in runners.items():
        contenders |= {f"{name}/compute": runner.compute, f"{name}/whole": runner.whole}
    small = place.batch == 1
    return Interleaved(
        warmup_rounds=1,
        settle=3 if small else 1,
        burst=5 if small else 3,
        min_rounds=budget.rounds,
        min_seconds=0.0,
        max_seconds=max(1.0, min(budget.seconds, budget.left)),
        floor_rounds=min(5, budget.rounds),
    )(contenders)


def _figures(latencies: Latencies, name: str, batch: int) -> Row:
    whole = latencies.interval_ms(f"{name}/whole")
    figures: Row = {
        "whole": _figure(whole),
        "compute": _figure(latencies.interval_ms(f"{name}/compute")),
        "to_device": _figure(latencies.interval_ms("send")),
        "to_host": _figure(latencies.interval_ms("fetch")),
        "items_per_s": 1e3 * batch / whole.value,
    }
    if f"{BASE.name}/whole" in latencies.nanoseconds and name != BASE.name:
        gain = latencies.ratio(f"{BASE.name}/whole", f"{name}/whole")
        figures["speedup"] = {"ratio": gain.value, "ci95": [gain.low, gain.high], "marked": gain.marked}
    return figures


def _figure(interval: Interval) -> Row:
    return {"p50_ms": interval.value, "ci95": [interval.low, interval.high], "marked": interval.marked}
