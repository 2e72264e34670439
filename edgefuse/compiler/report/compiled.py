"""The results of a compile, from which the report is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from edgefuse.bundle.manifest import Pruning, Rung
from edgefuse.bundle.spec import StageSpec
from edgefuse.compiler.candidates.built import Built
from edgefuse.compiler.candidates.golden import GoldenRow
from edgefuse.compiler.model.subject import Subject
from edgefuse.compiler.recipe.gpu import GpuReference
from edgefuse.compiler.recovery.forms import Forms, Recovery
from edgefuse.compiler.report.schema import PruningReport, RecoveryPoint, RecoveryReport
from edgefuse.compiler.rungs.final import RungAccuracy, Timings
from edgefuse.compiler.rungs.result import TargetResult
from edgefuse.compiler.search import Limits, StageFigure
from edgefuse.export import costs
from edgefuse.export.cost_graph import CostGraph


@dataclass(frozen=True)
class Compiled:
    """The results of a compile, ready to be reported; mappings are by target.

    Attributes:
        forms: all forms of its stages.
        judged: how each rung did on the test split, by target and rung.
        failed: why a target has no bundle.
        gpu: the model in full precision on a GPU, if the recipe names a record.
    """

    subject: Subject
    forms: Forms
    results: Mapping[str, TargetResult]
    rungs: Mapping[str, Sequence[Rung]]
    timings: Timings
    reference: Mapping[str, float]
    seconds: float
    judged: Mapping[str, Mapping[str, RungAccuracy]] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)
    gpu: GpuReference | None = None

    @property
    def limits(self) -> Limits:
        """The limits of the recipe besides the drop."""
        return self.subject.recipe.search.limits

    @property
    def rows(self) -> list[GoldenRow]:
        """How every file did on the golden inputs, once however many bundles hold it."""
        checked = (one for result in self.results.values() for one in result.data.candidates.checked.values())
        return list({(one.row.target, one.row.candidate): one.row for one in checked}.values())

    def figure(self, target: str, candidate: str) -> StageFigure:
        """Return the figures of a candidate alone."""
        return next(figure for figure in self.results[target].figures if figure.candidate == candidate)

    def spec(self, stage: str) -> StageSpec:
        """Return the wiring of a stage."""
        return next(spec for spec in self.subject.specs if spec.name == stage)

    def graph(self, target: str, candidate: str) -> CostGraph:
        """Return the operations in a candidate's file, with what they read and write."""
        built = self.results[target].built[candidate]
        return _graph(built, self.spec(built.stage))

    def default(self, target: str) -> Rung:
        """Return the rung that a target's bundle opens with."""
        return self.rungs[target][0]


@lru_cache(maxsize=256)
def _graph(built: Built, spec: StageSpec) -> CostGraph:
    return costs.graph(built.lowered(), built.target, spec)


def removed(pruning: Pruning | None) -> float | None:
    """Return the fraction that a pruning removes, all its steps together; None for an unpruned stage."""
    if pruning is None:
        return None
    kept = 1.0
    for step in pruning.steps:
        kept *= 1.0 - step.ratio
    return round(1.0 - kept, 6)


def prunings(forms: Forms) -> tuple[PruningReport, ...]:
    """Return what stages did not take of the prunings that the recipe asks for."""
    refused = (PruningReport(stage=name, pruning=id_, refused=why) for (name, id_), why in forms.refused.items())
    kept = (PruningReport(stage=name, pruning=id_, kept=why) for (name, id_), why in forms.kept.items())
    return (*refused, *kept)


def recovery(one: Recovery) -> RecoveryReport:
    """Return the curve of a recovery for the report."""
    points = [RecoveryPoint(epoch=e.epoch, loss=e.loss, accuracy=e.mean_accuracy) for e in one.epochs]
    return RecoveryReport(stages=(one.stage,), pruning=one.pruning.id, points=tuple(points))
