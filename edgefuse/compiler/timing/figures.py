"""The figures of every candidate alone: its time, compared with its stage's float file, and its counted costs."""

from __future__ import annotations

from collections.abc import Sequence

from edgefuse.bundle.manifest import Machine
from edgefuse.bundle.spec import Record, StageSpec
from edgefuse.compiler.cache import fingerprint
from edgefuse.compiler.candidates.target_data import TargetData
from edgefuse.compiler.search.figures import StageFigure
from edgefuse.compiler.timing import Contender, Timer, kept
from edgefuse.export import costs
from edgefuse.runtime.pressure import Pressure


class _Figures(Record, frozen=True, kw_only=True):
    """The measured candidates of one stage, as the cache keeps them."""

    figures: tuple[StageFigure, ...]

    @property
    def pressure(self) -> Pressure:
        """What else the machine did: they were timed together."""
        return self.figures[0].pressure


def figures(data: TargetData, stage: StageSpec, timer: Timer, machine: Machine) -> Sequence[StageFigure]:
    """Measure all candidates of a stage against its unpruned float file, together, or find it in the cache.

    Args:
        data: candidates of a target.
        stage: whose candidates are measured.
        timer: that compares them.
        machine: that the figures are of.

    Raises:
        MeasureError, BackendError: if they cannot be timed.
    """
    subject = data.material.subject
    files = [built.sha256 for built in data.candidates.built[stage.name]]
    key = [stage.name, files, timer.unit, machine, subject.splits["validation"].digest, fingerprint.of_compiler()]
    return kept.timings(
        data.material.cache, "figures", key, _Figures, lambda: _measured(data, stage, timer), timer
    ).figures


def _measured(data: TargetData, stage: StageSpec, timer: Timer) -> _Figures:
    built, feeds = data.candidates.built[stage.name], data.timing_feeds(stage)
    contenders = [Contender(one, feeds, data.backend(one)) for one in built]
    times = timer.stage(stage, contenders, data.material.subject.recipe.compile.threads)
    found = []
    for candidate in built:
        time, cost = times[candidate.id], costs.costs(candidate.lowered(), candidate.target, stage)
        found.append(
            StageFigure(
                stage=stage.name,
                candidate=candidate.id,
                scheme=candidate.scheme.id,
                p50=time.p50.value,
                p50_ci95=(time.p50.low, time.p50.high),
                speedup=time.speedup.value,
                speedup_ci95=(time.speedup.low, time.speedup.high),
                size_bytes=0 if stage.role == "frontend" else candidate.size_bytes,
                snr_db=data.snr_db(stage, candidate),
                is_float=candidate is built[0],
                pruning=candidate.form[1],
                memory_bytes=cost.weight_bytes + cost.activation_bytes,
                mac=cost.mac,
                bytes_moved=cost.bytes_moved,
                pressure=time.pressure,
            )
        )
    return _Figures(figures=tuple(found))
