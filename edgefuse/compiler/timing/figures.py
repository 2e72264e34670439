"""The figures of every candidate alone: its time, compared with its stage's float file, and its counted costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from edgefuse.bundle.manifest import Machine
from edgefuse.bundle.spec import Record, StageSpec
from edgefuse.compiler.cache import fingerprint
from edgefuse.compiler.candidates.built import Built
from edgefuse.compiler.candidates.target_data import TargetData
from edgefuse.compiler.search.figures import StageFigure
from edgefuse.compiler.timing import Contender, StageTime, Timer, kept
from edgefuse.compiler.timing.refusing import of_the_world, stage_times
from edgefuse.errors import EdgefuseError
from edgefuse.export import costs
from edgefuse.runtime.pressure import Pressure


class _Figures(Record, frozen=True, kw_only=True):
    """The measured candidates of one stage, as the cache keeps them, and why others could not be, by id."""

    figures: tuple[StageFigure, ...]
    refused: dict[str, str] = msgspec.field(default_factory=dict)

    @property
    def pressure(self) -> Pressure:
        """What else the machine did: they were timed together."""
        return self.figures[0].pressure


def figures(
    data: TargetData, stage: StageSpec, timer: Timer, machine: Machine
) -> tuple[Sequence[StageFigure], Mapping[str, str]]:
    """Measure all candidates of a stage against its unpruned float file, together, or find it in the cache.

    Args:
        data: candidates of a target.
        stage: whose candidates are measured.
        timer: that compares them.
        machine: that the figures are of.

    Returns:
        Their figures, and by id why there are none of others.

    Raises:
        EdgefuseError: if the unpruned float file cannot be timed.
    """
    subject = data.material.subject
    files = [built.sha256 for built in data.candidates.built[stage.name]]
    key = [stage.name, files, timer.unit, machine, subject.splits["validation"].digest, fingerprint.of_compiler()]
    found = kept.timings(data.material.cache, "figures", key, _Figures, lambda: _measured(data, stage, timer), timer)
    return found.figures, found.refused


def _measured(data: TargetData, stage: StageSpec, timer: Timer) -> _Figures:
    built, feeds = data.candidates.built[stage.name], data.timing_feeds(stage)
    contenders = [Contender(one, feeds, data.tools(one).backend) for one in built]
    times, refused = stage_times(timer, stage, contenders, data.material.subject.recipe.compile.threads)
    found = []
    for candidate in (one for one in built if one.id in times):
        try:
            found.append(_figure(data, stage, candidate, times[candidate.id]))
        except EdgefuseError as error:
            if candidate is built[0] or of_the_world(error):
                raise
            refused[candidate.id] = str(error)
    return _Figures(figures=tuple(found), refused=refused)


def _figure(data: TargetData, stage: StageSpec, candidate: Built, time: StageTime) -> StageFigure:
    """Return the figure of a candidate in a prediction: a decoder is run once per token."""
    cost, runs = costs.costs(candidate.lowered(), candidate.target, stage), data.runs(stage)
    return StageFigure(
        stage=stage.name,
        candidate=candidate.id,
        scheme=candidate.scheme.id,
        p50=runs * time.p50.value,
        p50_ci95=(runs * time.p50.low, runs * time.p50.high),
        speedup=time.speedup.value,
        speedup_ci95=(time.speedup.low, time.speedup.high),
        size_bytes=0 if stage.role == "frontend" else candidate.size_bytes,
        snr_db=data.snr_db(stage, candidate),
        is_float=candidate is data.candidates.built[stage.name][0],
        pruning=candidate.form[1],
        memory_bytes=cost.weight_bytes + cost.activation_bytes,
        mac=round(runs * cost.mac),
        bytes_moved=round(runs * cost.bytes_moved),
        pressure=time.pressure,
        file=candidate.sha256,
    )
