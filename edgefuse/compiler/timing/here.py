"""The timer for the machine that compiles: all contenders in one interleaved run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from edgefuse.bundle.manifest import Machine
from edgefuse.bundle.spec import StageSpec
from edgefuse.compiler.timing.timer import REFERENCE, Contender, DraftRung, RungTime, RungTimes, StageTime, Unit
from edgefuse.measure.latency import Interleaved, in_turn, single_stream
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
        calls = {c.built.id: in_turn(c.built.open(c.backend, threads).run, c.feeds) for c in contenders}
        latencies = STAGE_TIMING(calls)
        return {name: StageTime.of(latencies, name, contenders[0].built.id) for name in calls}

    def rungs(
        self, drafts: Sequence[DraftRung], inputs: Sequence[Inputs], reference: Callable[[Inputs], object], threads: int
    ) -> RungTimes:
        """Time rungs and the reference end to end, and the memory of each rung in a process of its own."""
        with ExitStack() as stack:
            calls: dict[str, Callable[[], object]] = {}
            for draft in drafts:
                pipeline = load(draft.bundle, rung=draft.name, threads=threads, cache=False)
                calls[draft.key] = in_turn(stack.enter_context(pipeline).infer, inputs)
            latencies = RUNG_TIMING(calls | {REFERENCE: in_turn(reference, inputs)})
        times: dict[str, RungTime] = {}
        for draft in drafts:
            start = cold_start(draft.bundle, inputs[0], rung=draft.name, threads=threads, backend=None)
            measured = RungTime.of(latencies, draft, start.peak_rss_bytes)
            times[draft.key] = replace(measured, cold_start_ms=start.total_ms)
        return RungTimes(latencies.p50_ms(REFERENCE), times, latencies.pressure)
