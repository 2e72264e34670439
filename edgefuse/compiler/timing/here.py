"""The timer for the machine that compiles: all contenders in one interleaved run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from edgefuse.bundle.manifest import Machine
from edgefuse.bundle.spec import StageSpec
from edgefuse.compiler.timing.timer import REFERENCE, Contender, DraftRung, RungTime, RungTimes, StageTime, Unit
from edgefuse.measure.latency import Interleaved, Latencies, in_turn, single_stream
from edgefuse.measure.rungs import P99_ROUNDS, cold_start
from edgefuse.runtime import pressure, signals
from edgefuse.runtime.backends.backend import Backend, versions_of
from edgefuse.runtime.pipeline import Inputs, load

STAGE_TIMING = Interleaved(warmup_rounds=5, min_rounds=150, max_seconds=8.0)
RUNG_TIMING = single_stream(rounds=P99_ROUNDS, max_seconds=36.0)


@dataclass(frozen=True)
class Here:
    """Times on this machine; the torch reference runs side by side with the rungs."""

    unit: Unit = "ms"

    def describe(self, backends: Sequence[Backend], threads: int) -> Machine:
        """Describe this machine."""
        return signals.describe(threads, versions_of(backends))

    def quiet(self) -> bool:
        """Try this machine for a moment."""
        return pressure.quiet()

    def stage(self, stage: StageSpec, contenders: Sequence[Contender], threads: int) -> Mapping[str, StageTime]:
        """Time files of one stage."""
        return stage_times(STAGE_TIMING, contenders, threads)

    def rungs(
        self, drafts: Sequence[DraftRung], inputs: Sequence[Inputs], reference: Callable[[Inputs], object], threads: int
    ) -> RungTimes:
        """Time rungs and the reference end to end, and the memory of each rung in a process of its own."""
        latencies = rung_latencies(RUNG_TIMING, drafts, inputs, threads, {REFERENCE: in_turn(reference, inputs)})
        times: dict[str, RungTime] = {}
        for draft in drafts:
            start = cold_start(draft.bundle, inputs[0], rung=draft.name, threads=threads, backend=None)
            measured = RungTime.of(latencies, draft, start.peak_rss_bytes)
            times[draft.key] = replace(measured, cold_start_ms=start.total_ms)
        return RungTimes(latencies.p50_ms(REFERENCE), times, latencies.pressure)


def stage_times(timing: Interleaved, contenders: Sequence[Contender], threads: int) -> dict[str, StageTime]:
    """Time files of one stage in one interleaved run; the first is what others are compared with.

    Args:
        timing: how often they are called.
        contenders: files, with what they are fed.
        threads: of each session.
    """
    calls = {c.built.id: in_turn(c.built.open(c.backend, threads).run, c.feeds) for c in contenders}
    latencies = timing(calls)
    return {name: StageTime.of(latencies, name, contenders[0].built.id) for name in calls}


def rung_latencies(
    timing: Interleaved,
    drafts: Sequence[DraftRung],
    inputs: Sequence[Inputs],
    threads: int,
    others: Mapping[str, Callable[[], object]],
) -> Latencies:
    """Time rungs end to end in one interleaved run, by their keys, beside other calls.

    Args:
        timing: how often they are called.
        drafts: rungs in bundles that can be opened.
        inputs: that all predict from, in turn.
        threads: of each pipeline.
        others: calls by name.
    """
    with ExitStack() as stack:
        calls: dict[str, Callable[[], object]] = {}
        for draft in drafts:
            pipeline = load(draft.bundle, rung=draft.name, threads=threads, cache=False)
            calls[draft.key] = in_turn(stack.enter_context(pipeline).infer, inputs)
        return timing({**calls, **others})
