"""The load of the machine during every timing of a compile, and the figures that cannot be trusted for it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from edgefuse.compiler.report.compiled import Compiled
from edgefuse.compiler.report.schema import TimingReport
from edgefuse.runtime.pressure import Pressure


def timing_reports(made: Compiled) -> tuple[TimingReport, ...]:
    """Return a line for every interleaved run: rungs first, then the stages; none where costs were counted."""
    if made.timings.unit != "ms":
        return ()
    return tuple(_reported(what, pressure) for what, pressure in _runs(made))


def busy(timings: Iterable[TimingReport]) -> tuple[str, ...]:
    """Return the timings that cannot be trusted, with the reasons, in words; none where the machine was quiet."""
    return tuple(f"{timing.what}: {'; '.join(timing.busy)}" for timing in timings if timing.busy)


def _runs(made: Compiled) -> Iterator[tuple[str, Pressure]]:
    yield "rungs", made.timings.pressure
    if made.timings.reference_stages_ms:
        yield "stages in torch", made.timings.reference_stages_pressure
    for target, result in made.results.items():
        for stage, pressure in {figure.stage: figure.pressure for figure in result.figures}.items():
            yield f"{target} {stage}", pressure


def _reported(what: str, pressure: Pressure) -> TimingReport:
    return TimingReport(
        what=what,
        busy=pressure.seen,
        waited=pressure.waited,
        stolen=pressure.stolen,
        stalled=pressure.stalled,
        others=pressure.others,
        interruptions_per_s=pressure.interruptions_per_s,
        drift=pressure.drift,
    )
