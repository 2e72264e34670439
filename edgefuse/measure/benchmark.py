"""A benchmark of a bundle: its rungs and a reference in one interleaved run, and a cold start of each rung."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Literal, TypeAlias

from edgefuse.bundle.manifest import Machine
from edgefuse.bundle.reader import Bundle
from edgefuse.errors import MeasureError
from edgefuse.measure import placement
from edgefuse.measure.generation import TokenRate, token_rates
from edgefuse.measure.latency import Summary, single_stream
from edgefuse.measure.placement import Placement
from edgefuse.measure.rungs import P99_ROUNDS, ColdStart, cold_start, describe, makes_tokens, open_rungs
from edgefuse.measure.statistics import Interval
from edgefuse.progress import Progress
from edgefuse.runtime.backends.backend import SessionOptions
from edgefuse.runtime.backends.choice import NOTHING
from edgefuse.runtime.decoding import TOKEN
from edgefuse.runtime.pipeline import Inputs
from edgefuse.runtime.pressure import MOST_WAITED_ONCE, Pressure

Scenario: TypeAlias = Literal["single-stream"]
_MAX_SECONDS = 120.0


@dataclass(frozen=True)
class Baseline:
    """The reference of a benchmark: a name for the table, a call that predicts once, and what it is in words."""

    name: str
    call: Callable[[], object]
    describe: Callable[[], str]


@dataclass(frozen=True)
class Benchmark:
    """The result of a benchmark; mappings are by rung, and `steady` has the reference, too.

    Attributes:
        inputs: where they came from, and what is present.
        feature_cache: always off: caching across queries would measure the cache.
        baseline: what `speedup` is over, in words; None without one.
        steady: from one interleaved run.
        speedup_over_float: over the rung of float stages in the same runtime, where the bundle has one.
        cold: each in a process of its own.
        placement: what runs where, of the files of these rungs; empty with another backend than the bundle names.
        tokens: how fast rungs make tokens, where the model does.
        pressure: what else the machine did during the interleaved run.
    """

    scenario: Scenario
    machine: Machine
    inputs: str
    feature_cache: bool
    rounds: int
    baseline: str | None
    steady: dict[str, Summary]
    speedup: dict[str, Interval]
    speedup_over_float: dict[str, Interval]
    cold: dict[str, ColdStart]
    placement: tuple[Placement, ...] = ()
    tokens: dict[str, TokenRate] = field(default_factory=dict)
    pressure: Pressure = field(default_factory=Pressure)

    @property
    def busy(self) -> tuple[str, ...]:
        """What speaks against these figures, each in words; nothing where the machine was quiet."""
        waiting = {name: cold.waited or 0.0 for name, cold in self.cold.items()}
        return (
            *self.pressure.seen,
            *(
                f"{100 * share:.0f} % of the cold start of '{name}' waited for a processor "
                f"(expected < {100 * MOST_WAITED_ONCE:.0f} %)"
                for name, share in waiting.items()
                if share >= MOST_WAITED_ONCE
            ),
        )


@dataclass(frozen=True)
class Settings:
    """How to measure.

    Attributes:
        rungs: their names; all of the bundle if empty.
        backend: another one than the bundle names.
        rounds: of `BURST` timed calls each, at the least.
        seed: of the order within the rounds.
    """

    rungs: tuple[str, ...] = ()
    threads: int = 1
    backend: str | None = None
    rounds: int = P99_ROUNDS
    seed: int = 0
    scenario: Scenario = "single-stream"

    def __call__(
        self,
        bundle: Bundle,
        inputs: Inputs,
        origin: str,
        progress: Progress,
        baseline: Callable[[ExitStack], Baseline] | None = None,
    ) -> Benchmark:
        """Measure cold starts, then all rungs and the reference in turn.

        Args:
            bundle: to be measured.
            inputs: what every prediction is from.
            origin: where they come from.
            progress: is told what is going on.
            baseline: opens the reference; the stack closes it. It is called several times.
        """
        rung_of = {rung.name: rung for rung in bundle.manifest.rungs}
        names = [bundle.manifest.rung(name).name for name in dict.fromkeys(self.rungs or rung_of)]
        reference: Baseline | None = None
        with ExitStack() as stack:

            def opened() -> Mapping[str, Callable[[], object]]:
                nonlocal reference
                stack.close()
                calls = open_rungs(stack, bundle, inputs, names, threads=self.threads, backend=self.backend)
                if reference := baseline(stack) if baseline else None:
                    calls[reference.name] = reference.call
                return calls

            calls = opened()
            cold = self._cold(bundle, inputs, names, progress)
            timing = single_stream(rounds=self.rounds, max_seconds=_MAX_SECONDS, seed=self.seed)
            latencies = timing(calls, progress, opened=opened)
        floats = next((name for name in names if rung_of[name].objective == "float"), None)
        return Benchmark(
            scenario=self.scenario,
            machine=describe(bundle, threads=self.threads, backend=self.backend, names=names),
            inputs=f"{origin} ({' + '.join(inputs.present)})",
            feature_cache=False,
            rounds=latencies.rounds,
            baseline=reference.describe() if reference else None,
            steady={name: latencies.summary(name) for name in calls},
            speedup={name: latencies.ratio(reference.name, name) for name in names} if reference else {},
            speedup_over_float={n: latencies.ratio(floats, n) for n in names if n != floats} if floats else {},
            cold=cold,
            placement=self._placement(bundle, names),
            tokens=token_rates(bundle, inputs, names, threads=self.threads, backend=self.backend, progress=progress),
            pressure=latencies.pressure,
        )

    def _cold(self, bundle: Bundle, inputs: Inputs, names: Sequence[str], progress: Progress) -> dict[str, ColdStart]:
        found: dict[str, ColdStart] = {}
        for name in names:
            found[name] = cold_start(bundle.path, inputs, rung=name, threads=self.threads, backend=self.backend)
            progress(len(found), len(names), "cold starts")
        return found

    def _placement(self, bundle: Bundle, names: Iterable[str]) -> tuple[Placement, ...]:
        if self.backend == NOTHING:
            return ()
        chosen = {candidate for name in names for candidate in bundle.manifest.rung(name).candidates.values()}
        return placement.measure(bundle, chosen, SessionOptions(threads=self.threads))


def against(other: Bundle, called: str, inputs: Inputs, threads: int) -> Callable[[ExitStack], Baseline]:
    """Return a function that opens the default rung of another bundle as the reference.

    Args:
        other: the bundle, which stays open.
        called: its path as it was given.
        inputs: those of the benchmark.
        threads: of its pipeline.

    Raises:
        MeasureError: if it does not take these inputs.
    """
    modalities = other.manifest.model.modalities
    known = {f"{m.name}.{tensor.name}" for m in modalities for tensor in m.tensors}
    known |= {f"{m.name}.length" for m in modalities if m.length} | ({TOKEN} if makes_tokens(other.manifest) else set())
    if set(inputs.values) - known:
        raise MeasureError(
            "the two bundles do not take the same inputs",
            got=", ".join(sorted(inputs.values)),
            expected=", ".join(sorted(known)),
        )
    rung = other.manifest.default_rung

    def opened(stack: ExitStack) -> Baseline:
        calls = open_rungs(stack, other, inputs, [rung], threads=threads, backend=None)
        words = f"{called}, rung '{rung}', backend {other.manifest.backend}"
        return Baseline(f"{PurePath(called).stem}/{rung}", calls[rung], lambda: words)

    return opened
