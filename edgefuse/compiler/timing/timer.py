"""The protocol of a timer, with its arguments and results.

To add one, write a class with the members of `Timer` in a file of its own and let `timer_of` choose it. A timer keeps
no state between calls and can be pickled: a frozen dataclass of its settings.

- `unit` says what its figures are: milliseconds, or a cost that stands in for them where nothing can run. Everything
  downstream compares figures of one timer with each other, without a unit in their names.
- `describe` gives the machine that the figures are of. It is part of every cache key and stands beside every figure
  in bundles and reports, so what would change a figure has to show in it: another device is another machine, and a
  stand-in has to say so (in `cpu`, for instance).
- `stage` compares the files of one stage. An interval of no width says that a figure is exact.
- What `stage` and `rungs` measure on a busy machine has wider, marked intervals. The search takes them as they are, so
  that what they cannot tell apart is a tie, and the report says so.
- `rungs` compares whole rungs, of all targets. `RungTime.speedup` is over the torch reference, and None where that did
  not run side by side with the rung, on the same machine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

from edgefuse.bundle.manifest import Figure, Machine
from edgefuse.bundle.spec import StageSpec
from edgefuse.compiler.candidates.built import Built
from edgefuse.measure.latency import Latencies
from edgefuse.measure.rungs import figure
from edgefuse.measure.statistics import Interval
from edgefuse.runtime.backends.backend import Backend
from edgefuse.runtime.pipeline import Inputs
from edgefuse.runtime.pressure import Pressure
from edgefuse.stages.stage import Feeds

Unit: TypeAlias = Literal["ms", "cost"]

FLOAT_RUNG = "float"
"""The rung of unpruned float stages, which every target has among its drafts."""

REFERENCE = "reference"
"""What the torch reference is called among the keys of rungs."""


@dataclass(frozen=True)
class Contender:
    """A file of a stage, the feeds that it gets in turn, and what opens it."""

    built: Built
    feeds: Sequence[Feeds]
    backend: Backend


@dataclass(frozen=True)
class StageTime:
    """The time of a file, with its 95 % interval, and how many times faster than the first contender it is.

    `pressure` is what else the machine did meanwhile, the same for all files of a stage.
    """

    p50: Interval
    speedup: Interval
    pressure: Pressure = field(default_factory=Pressure)

    @classmethod
    def of(cls, latencies: Latencies, name: str, first: str) -> StageTime:
        """Read it off an interleaved run.

        Args:
            latencies: of an interleaved run.
            name: of the file.
            first: the name of the first contender.
        """
        return cls(latencies.interval_ms(name), latencies.ratio(first, name), latencies.pressure)


@dataclass(frozen=True)
class DraftRung:
    """A rung to be timed.

    Attributes:
        bundle: one that has it.
        built: the files that it runs, by stage.
        machine: what the figures of its target are of, as `Timer.describe` said.
    """

    target: str
    name: str
    bundle: Path
    built: Mapping[str, Built]
    machine: Machine

    @property
    def key(self) -> str:
        """The name among all rungs of all targets."""
        return f"{self.target}/{self.name}"

    @property
    def float_key(self) -> str:
        """The key of the float rung of its target."""
        return f"{self.target}/{FLOAT_RUNG}"


@dataclass(frozen=True)
class RungTime:
    """A measured `figure` or a counted `cost`, and how many times faster than float stages and the torch reference.

    `cold_start_ms` is the time to the first answer of a fresh process, where that was measured.
    """

    speedup_over_float: Interval
    speedup: Interval | None = None
    figure: Figure | None = None
    cost: float | None = None
    cold_start_ms: float | None = None

    @classmethod
    def of(cls, latencies: Latencies, draft: DraftRung, peak_rss_bytes: int) -> RungTime:
        """Read it off an interleaved run, in which the reference may have run.

        Args:
            latencies: of an interleaved run.
            draft: the rung.
            peak_rss_bytes: of a process that ran it.
        """
        over = latencies.ratio(REFERENCE, draft.key) if REFERENCE in latencies.nanoseconds else None
        measured = figure(latencies, draft.key, draft.machine, peak_rss_bytes=peak_rss_bytes)
        return cls(latencies.ratio(draft.float_key, draft.key), over, measured)


@dataclass(frozen=True)
class RungTimes:
    """All rungs by key, and the median of the torch reference on the build host in ms; None if it was not run.

    `pressure` is what else the machine did meanwhile.
    """

    reference_p50_ms: float | None
    rungs: Mapping[str, RungTime]
    pressure: Pressure = field(default_factory=Pressure)


class Timer(Protocol):
    """Compares files and rungs; see the module's docstring."""

    @property
    def unit(self) -> Unit:
        """The unit of figures."""

    def describe(self, backends: Sequence[Backend], threads: int) -> Machine:
        """Return the machine that the figures of these runtimes are of."""

    def quiet(self) -> bool:
        """Tell whether figures of a busy machine may be worth measuring again now."""

    def stage(self, stage: StageSpec, contenders: Sequence[Contender], threads: int) -> Mapping[str, StageTime]:
        """Compare files of one stage.

        Args:
            stage: what they are files of.
            contenders: the first one is what the others' speed-ups are over.
            threads: of the runtime.

        Returns:
            What each takes, by the candidate's id.

        Raises:
            MeasureError, BackendError, DeviceTaskError: if one of them cannot be timed.
        """

    def rungs(
        self, drafts: Sequence[DraftRung], inputs: Sequence[Inputs], reference: Callable[[Inputs], object], threads: int
    ) -> RungTimes:
        """Compare rungs end to end.

        Args:
            drafts: the rungs of all targets, `FLOAT_RUNG` of each among them.
            inputs: what they predict from in turn.
            reference: predicts in torch, on the build host.
            threads: of each pipeline.
        """
