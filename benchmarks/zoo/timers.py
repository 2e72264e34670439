"""How the zoo times: not at all while several models are made at once, then little, where nothing else runs.

A user's compile also times torch, eager and compiled, and starts every rung in a process of its own for its memory.
That takes longer than all that the zoo compares.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from unittest.mock import patch

from edgefuse.bundle.spec import StageSpec
from edgefuse.compiler import compilation
from edgefuse.compiler.timing import Contender, DraftRung, RungTimes, StageTime, Timer
from edgefuse.compiler.timing.here import Here, rung_latencies, stage_times
from edgefuse.compiler.timing.timer import RungTime, Unit
from edgefuse.measure.latency import Interleaved, single_stream
from edgefuse.measure.rungs import figure
from edgefuse.measure.statistics import Interval
from edgefuse.runtime.pipeline import Inputs

PAIR_ROUNDS = 31
"""Of a bundle against that of the same model as one stage."""

_STAGES = Interleaved(warmup_rounds=5, min_rounds=101, max_seconds=4.0)
_RUNGS = single_stream(rounds=21, max_seconds=6.0)
_SAME = Interval(1.0, 1.0, 1.0)


@dataclass(frozen=True)
class Untimed(Here):
    """Times nothing: files are made, and every choice among them is as good as another."""

    unit: Unit = "cost"

    def quiet(self) -> bool:
        """Nothing is measured, and no load can falsify it."""
        return True

    def stage(self, stage: StageSpec, contenders: Sequence[Contender], threads: int) -> Mapping[str, StageTime]:
        """Call all files of a stage equally fast."""
        return {contender.built.id: StageTime(_SAME, _SAME) for contender in contenders}

    def rungs(
        self, drafts: Sequence[DraftRung], inputs: Sequence[Inputs], reference: Callable[[Inputs], object], threads: int
    ) -> RungTimes:
        """Call all rungs equally fast."""
        return RungTimes(None, {draft.key: RungTime(cost=1.0, speedup_over_float=_SAME) for draft in drafts})


@dataclass(frozen=True)
class Alone(Here):
    """Times files and rungs on this machine, in fewer rounds than a compile does; torch and memory are left out."""

    def stage(self, stage: StageSpec, contenders: Sequence[Contender], threads: int) -> Mapping[str, StageTime]:
        """Time files of one stage."""
        return stage_times(_STAGES, contenders, threads)

    def rungs(
        self, drafts: Sequence[DraftRung], inputs: Sequence[Inputs], reference: Callable[[Inputs], object], threads: int
    ) -> RungTimes:
        """Time rungs end to end."""
        latencies = rung_latencies(_RUNGS, drafts, inputs, threads, {})
        times = {
            draft.key: RungTime(
                speedup_over_float=latencies.ratio(draft.float_key, draft.key),
                figure=figure(latencies, draft.key, draft.machine, peak_rss_bytes=None),
            )
            for draft in drafts
        }
        return RungTimes(None, times, latencies.pressure)


@contextmanager
def compiled_with(timer: Timer) -> Iterator[None]:
    """Let compiles within the block take this timer."""
    with patch.object(compilation, "timer_of", lambda recipe: timer):
        yield
