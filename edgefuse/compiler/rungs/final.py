"""The last measurement: rungs end to end, from their files, on data that the search never saw."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import msgspec
import numpy as np

from edgefuse.bundle.manifest import Figure
from edgefuse.bundle.spec import Record, StageSpec
from edgefuse.compiler.evaluation.drops import Judge, differences
from edgefuse.compiler.evaluation.evaluator import Evaluator
from edgefuse.compiler.evaluation.reference import TorchReference
from edgefuse.compiler.evaluation.runners import Array, in_torch, session_of
from edgefuse.compiler.evaluation.sentences import Sentences, sentences
from edgefuse.compiler.model.subject import Subject
from edgefuse.compiler.rungs.result import TargetResult
from edgefuse.compiler.search import Combination, SubsetDrop
from edgefuse.compiler.timing import DraftRung, Timer
from edgefuse.compiler.timing.refusing import rung_times
from edgefuse.compiler.timing.timer import Unit
from edgefuse.datasets.cache import Cache
from edgefuse.measure.latency import Interleaved, Latencies
from edgefuse.measure.statistics import Interval
from edgefuse.runtime.backends.denormals import Flushed
from edgefuse.runtime.graph import constants_of, zeros_of_tensor
from edgefuse.runtime.pipeline import Inputs
from edgefuse.runtime.pressure import Pressure
from edgefuse.runtime.processor import available_processors

_TIMED_ITEMS = 32
_STAGE_TIMING = Interleaved(min_rounds=31, max_seconds=10.0)


class Ratio(Record, frozen=True, kw_only=True):
    """A speed-up from interleaved runs, with its 95 % interval; `marked` where the machine was busy."""

    ratio: float
    ci95: tuple[float, float]
    marked: bool = False

    @classmethod
    def of(cls, interval: Interval) -> Ratio:
        """Return it as it was measured."""
        return cls(ratio=interval.value, ci95=(interval.low, interval.high), marked=interval.marked)


class RungTiming(Record, frozen=True, kw_only=True):
    """The time of one rung, and how many times faster it is than the reference and than the float rung.

    There is a measured `figure`, or a counted `cost` where no device was measured. There is no `speedup` over the
    reference where that did not run on the same machine.

    Attributes:
        cold_start_ms: from nothing to the first answer in a fresh process, where that was measured.
    """

    figure: Figure | None = None
    cost: float | None = None
    cold_start_ms: float | None = None
    speedup: Ratio | None
    speedup_over_float: Ratio

    @property
    def p50(self) -> float:
        """The median in milliseconds, or the cost."""
        return self.figure.p50_ms if self.figure else self.cost or 0.0

    def ties_with(self, other: RungTiming) -> bool:
        """Tell whether a busy machine left open which of two rungs is faster."""
        (low, high), (others_low, others_high) = self.speedup_over_float.ci95, other.speedup_over_float.ci95
        return self.speedup_over_float.marked and low <= others_high and others_low <= high


class Timings(Record, frozen=True, kw_only=True):
    """The times of the reference and of all rungs of all targets (target, then rung); `unit` is that of the rungs.

    `pressure` is what else the machine did while the rungs were timed, `reference_stages_pressure` the same of the
    stages in torch. `refused` says why a rung could not be timed (target, then rung); if it is the float one, none of
    its target could.
    """

    reference: str
    reference_p50_ms: float | None
    reference_stages_ms: dict[str, float]
    rungs: dict[str, dict[str, RungTiming]]
    unit: Unit = "ms"
    pressure: Pressure = msgspec.field(default_factory=Pressure)
    reference_stages_pressure: Pressure = msgspec.field(default_factory=Pressure)
    refused: dict[str, dict[str, str]] = msgspec.field(default_factory=dict)


@dataclass(frozen=True)
class RungAccuracy:
    """The metrics of the outputs and their drops on the test split, by `key_of`.

    Attributes:
        others: see `differences`.
        said: what a model that makes tokens says by itself.
    """

    figures: Mapping[str, float]
    drops: Mapping[str, SubsetDrop]
    others: Mapping[str, float] = field(default_factory=dict)
    said: Sentences | None = None


class TestSplit:
    """Reads the test split, once per combination that was chosen."""

    __test__ = False  # this is no pytest class

    def __init__(self, subject: Subject, cache: Cache, note: Callable[[str], None]) -> None:
        self._subject = subject
        self._evaluator = Evaluator(subject, subject.splits["test"], cache, note)
        self._reference = self._evaluator.answers(in_torch(subject))
        self._judge = Judge(subject, "test", self._reference)

    def reference(self) -> dict[str, float]:
        """Return the metrics of torch fp32, by `key_of`."""
        return self._judge.figures()

    def judge(self, result: TargetResult, combination: Combination) -> RungAccuracy:
        """Return the metrics of a combination of candidates, and their drops against the reference."""
        answers = self._evaluator.answers(result.runners(combination))
        rows = self._judge.rows(answers)
        others = differences(self._subject, self._reference, answers)
        return RungAccuracy(self._judge.figures(rows), self._judge.drops(rows), others, self._said(result, combination))

    def _said(self, result: TargetResult, combination: Combination) -> Sentences | None:
        subject = self._subject
        if not subject.makes_tokens:
            return None
        runners = result.runners(combination)
        return sentences(subject, subject.splits["test"], self._evaluator, in_torch(subject), runners)


def time_rungs(subject: Subject, drafts: Sequence[DraftRung], timer: Timer, note: Callable[[str], None]) -> Timings:
    """Time the reference and every rung of every target, all together; rungs that cannot be timed are left out.

    Args:
        subject: the model.
        drafts: the rungs, with bundles that have them.
        timer: compares them.
        note: is told what is going on.

    Raises:
        EdgefuseError: if no target's float rung can be timed.
    """
    threads = subject.recipe.compile.threads
    note("choose the torch reference")
    reference = TorchReference(subject.module, min(threads, available_processors()))  # a device may have more
    inputs = _test_inputs(subject)
    note("time all rungs against the reference")
    in_reference = lambda item: reference.run(item.values, item.present)  # noqa: E731
    times, why = rung_times(lambda some: timer.rungs(some, inputs, in_reference, threads), drafts)
    rungs: dict[str, dict[str, RungTiming]] = {draft.target: {} for draft in drafts}
    refused: dict[str, dict[str, str]] = {}
    for draft in drafts:
        if draft.key in why:
            refused.setdefault(draft.target, {})[draft.name] = why[draft.key]
            continue
        time = times.rungs[draft.key]
        rungs[draft.target][draft.name] = RungTiming(
            figure=time.figure,
            cost=time.cost,
            cold_start_ms=time.cold_start_ms,
            speedup=Ratio.of(time.speedup) if time.speedup else None,
            speedup_over_float=Ratio.of(time.speedup_over_float),
        )
    stages = _torch_stages(subject, inputs[0]) if times.reference_p50_ms is not None else None
    return Timings(
        reference=reference.description,
        reference_p50_ms=times.reference_p50_ms,
        reference_stages_ms={name: stages.p50_ms(name) for name in stages.nanoseconds} if stages else {},
        rungs=rungs,
        unit=timer.unit,
        pressure=times.pressure,
        reference_stages_pressure=stages.pressure if stages else Pressure(),
        refused=refused,
    )


def _torch_stages(subject: Subject, inputs: Inputs) -> Latencies:
    """Time each stage alone in torch eager, to show where the reference spends its time."""
    calls: dict[str, Callable[[], object]] = {}
    runners = in_torch(subject)

    def run_stage(stage: StageSpec, feeds: dict[str, Array]) -> dict[str, Array]:
        session = session_of(stage, runners[stage.name], subject.spec)
        calls[stage.name] = partial(session.run, feeds)
        return session.run(feeds)

    plan = subject.graph.plan(inputs.present)
    subject.graph.run(plan, run_stage, {**inputs.values, **constants_of(plan)}, subject.graph.initial(zeros_of_tensor))
    with Flushed():
        return _STAGE_TIMING(calls)


def _test_inputs(subject: Subject) -> list[Inputs]:
    """Return the first complete test items, as a pipeline takes them after preprocessing."""
    data = subject.splits["test"]
    everything = range(len(subject.spec.modalities))
    present = tuple(modality.name for modality in subject.spec.modalities)
    keys = subject.value_keys
    return [
        Inputs(values={key: np.array(data.values.get(key, int(i))) for key in keys}, present=present)
        for i in data.with_subset(everything)[:_TIMED_ITEMS]
    ]
