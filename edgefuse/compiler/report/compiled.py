"""What a compile found, as the report takes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from edgefuse.bundle.manifest import Pruning, Rung
from edgefuse.bundle.spec import StageSpec
from edgefuse.compiler.candidates.toolchain import Built
from edgefuse.compiler.model.subject import Subject
from edgefuse.compiler.report.schema import GoldenRow, RecoveryPoint, RecoveryReport
from edgefuse.compiler.rungs.final import Timings
from edgefuse.compiler.search import Limits, StageFigure
from edgefuse.compiler.target import TargetResult
from edgefuse.export.costs import counting as costs
from edgefuse.export.costs.graph import CostGraph
from edgefuse.prune.recovery import Epoch
from edgefuse.stages.stage import TorchStage


@dataclass(frozen=True)
class Compiled:
    """What a compile found, ready to be reported; mappings are by target.

    Attributes:
        sets: the subjects whose stages combine with each other: the model as it came, and a narrowed one.
        recoveries: how pruned stages came back.
        limits: of the recipe, besides the drop.
    """

    subject: Subject
    results: Mapping[str, TargetResult]
    rungs: Mapping[str, Sequence[Rung]]
    rows: Sequence[GoldenRow]
    timings: Timings
    reference: Mapping[str, float]
    seconds: float
    sets: Sequence[Subject] = ()
    recoveries: Sequence[RecoveryReport] = ()
    limits: Limits = field(default_factory=Limits)

    def figure(self, target: str, candidate: str) -> StageFigure:
        """Return what was measured of a candidate alone."""
        return next(figure for figure in self.results[target].figures if figure.candidate == candidate)

    def spec(self, stage: str) -> StageSpec:
        """Return the wiring of a stage."""
        return next(spec for spec in self.subject.specs if spec.name == stage)

    def forms(self, stage: str) -> list[TorchStage]:
        """Return all forms of a stage, of all sets, the unpruned one first."""
        return [form for subject in self.sets or [self.subject] for form in subject.forms(stage)]

    def graph(self, target: str, candidate: str) -> CostGraph:
        """Return the operations in a candidate's file, with what they read and write."""
        built = self.results[target].built[candidate]
        return _graph(built, next(form.spec for form in self.forms(built.stage) if form.pruning == built.pruning))

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


def recovery(stages: Sequence[str], pruning: Pruning, epochs: Sequence[Epoch]) -> RecoveryReport:
    """Return the curve of a recovery for the report; several stages if they were trained together."""
    points = [RecoveryPoint(epoch=one.epoch, loss=one.loss, accuracy=one.mean_accuracy) for one in epochs]
    return RecoveryReport(stages=tuple(stages), pruning=pruning.id, points=tuple(points))
