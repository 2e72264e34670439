"""The last measurement: what was chosen, end to end, from its files, on data that the search never saw."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path

import numpy as np

import edgefuse
from edgefuse.bundle.manifest import Figure, Machine, Rung
from edgefuse.bundle.reader import open_bundle
from edgefuse.bundle.spec import Record
from edgefuse.compiler.cache import Cache
from edgefuse.compiler.evaluate import Array, Evaluator, Outputs, Runner, TorchRunner, feeds_of, in_torch
from edgefuse.compiler.reference import TorchReference
from edgefuse.compiler.search import Combination, SubsetDrop
from edgefuse.compiler.subject import Subject
from edgefuse.compiler.target import TargetResult, accuracy, drops
from edgefuse.measure.latency import Interleaved
from edgefuse.measure.rungs import P99_ROUNDS, cold_start, figure
from edgefuse.runtime.backends.denormals import Flushed
from edgefuse.runtime.pipeline import Inputs

_TIMED_ITEMS = 32
_STAGE_TIMING = Interleaved(min_rounds=100, max_seconds=10.0)
_TIMING = Interleaved(warmup_rounds=10, min_rounds=P99_ROUNDS, max_seconds=90.0)
FLOAT_RUNG = "float"


class Ratio(Record, frozen=True, kw_only=True):
    """A speed-up from interleaved runs, with its 95 % interval."""

    ratio: float
    ci95: tuple[float, float]


class RungTiming(Record, frozen=True, kw_only=True):
    """The latency of one rung, and how many times faster it is than the reference and than its own float stages."""

    figure: Figure
    speedup: Ratio
    speedup_over_float: Ratio


class Timings(Record, frozen=True, kw_only=True):
    """One interleaved run over the reference and all rungs of all targets (target, then rung)."""

    reference: str
    reference_p50_ms: float
    reference_stages_ms: dict[str, float]
    rungs: dict[str, dict[str, RungTiming]]


@dataclass(frozen=True)
class RungAccuracy:
    """The metric and its drop by subset, on the test split."""

    accuracy: Mapping[str, float]
    drops: Mapping[str, SubsetDrop]


class TestSplit:
    """Reads the test split, once per combination that was chosen."""

    __test__ = False  # this is no pytest class

    def __init__(self, subject: Subject, cache: Cache, note: Callable[[str], None]) -> None:
        self._subject = subject
        self._cache = cache
        self._note = note
        self._reference = self._outputs(subject, in_torch(subject))

    def reference(self) -> dict[str, float]:
        """Return the metric of torch fp32 by subset."""
        return accuracy(self._subject, "test", self._reference)

    def judge(self, subject: Subject, result: TargetResult, combination: Combination) -> RungAccuracy:
        """Return the metric of a combination of a subject's candidates by subset, and what the unpruned model lost."""
        outputs = self._outputs(subject, result.runners(combination))
        return RungAccuracy(
            accuracy(self._subject, "test", outputs), drops(self._subject, "test", self._reference, outputs)
        )

    def _outputs(self, subject: Subject, runners: Mapping[str, Runner]) -> Outputs:
        return Evaluator(subject, subject.splits["test"], self._cache, self._note).outputs(runners)


def time_rungs(
    subject: Subject,
    drafts: Mapping[str, Sequence[Path]],
    machines: Mapping[str, Machine],
    note: Callable[[str], None],
) -> Timings:
    """Time the reference and every rung of every draft bundle in one interleaved run.

    Args:
        subject: the model.
        drafts: per target bundles, among whose rungs is `FLOAT_RUNG`.
        machines: per target what the figures are keyed by.
        note: is told what is going on.
    """
    threads = subject.recipe.compile.threads
    places = {(target, rung.name): path for target, paths in drafts.items() for path in paths for rung in _rungs(path)}
    pipelines = {key: edgefuse.load(path, rung=key[1], threads=threads, cache=False) for key, path in places.items()}
    note("choose the torch reference")
    reference = TorchReference(subject.model, threads)
    inputs = _test_inputs(subject)
    note("time all rungs against the reference")
    runs = {_name(key): _caller(pipeline.infer, inputs) for key, pipeline in pipelines.items()}
    latencies = _TIMING(runs | {"reference": _caller(lambda i: reference.run(i.values, i.present), inputs)})
    rungs: dict[str, dict[str, RungTiming]] = {target: {} for target in drafts}
    for (target, rung), pipeline in pipelines.items():
        name = _name((target, rung))
        start = cold_start(places[target, rung], inputs[0], rung=rung, threads=threads, backend=None)
        over, own = latencies.ratio("reference", name), latencies.ratio(_name((target, FLOAT_RUNG)), name)
        rungs[target][rung] = RungTiming(
            figure=figure(latencies, name, machines[target], peak_rss_bytes=start.peak_rss_bytes),
            speedup=Ratio(ratio=over.value, ci95=(over.low, over.high)),
            speedup_over_float=Ratio(ratio=own.value, ci95=(own.low, own.high)),
        )
        pipeline.close()
    return Timings(
        reference=reference.description,
        reference_p50_ms=latencies.p50_ms("reference"),
        reference_stages_ms=_torch_stages_ms(subject, inputs[0]),
        rungs=rungs,
    )


def _torch_stages_ms(subject: Subject, inputs: Inputs) -> dict[str, float]:
    """Time each stage alone in torch eager, to show where the reference spends its time."""
    pool: dict[str, Array] = {**inputs.values, "present": np.ones((1, len(inputs.present)), np.float32)}
    calls: dict[str, Callable[[], object]] = {}
    for stage in subject.stages:
        feeds, session = feeds_of(stage.spec, pool), TorchRunner(stage).session()
        calls[stage.spec.name] = partial(session.run, feeds)
        pool |= {stage.spec.key(port): value for port, value in session.run(feeds).items()}
    with Flushed():
        latencies = _STAGE_TIMING(calls)
    return {name: latencies.p50_ms(name) for name in calls}


def _rungs(path: Path) -> tuple[Rung, ...]:
    with open_bundle(path) as bundle:
        return bundle.manifest.rungs


def _name(key: tuple[str, str]) -> str:
    return "/".join(key)


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


def _caller(run: Callable[[Inputs], object], inputs: Sequence[Inputs]) -> Callable[[], object]:
    """Return a call that runs the next item in turn."""
    source = cycle(inputs)
    return lambda: run(next(source))
