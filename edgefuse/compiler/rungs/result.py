"""The result for one target: its candidates, measured, and the search over them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from edgefuse.bundle.manifest import Machine
from edgefuse.compiler.candidates.built import Built
from edgefuse.compiler.candidates.target_data import TargetData
from edgefuse.compiler.evaluation.correction import Correction
from edgefuse.compiler.evaluation.drops import Judge
from edgefuse.compiler.evaluation.evaluator import is_leaf
from edgefuse.compiler.evaluation.runners import Runner, in_torch
from edgefuse.compiler.model.splits import UNLABELLED
from edgefuse.compiler.search import Combination, Search, SearchResult, StageFigure, SubsetDrop, once_a_file
from edgefuse.compiler.timing import Timer
from edgefuse.compiler.timing.figures import figures


@dataclass(frozen=True)
class TargetResult:
    """A target's candidates, the figures of each alone, stage by stage, and the result of the search.

    Attributes:
        parts: the results of the targets that it joins; empty for a plain one.
    """

    data: TargetData
    machine: Machine
    figures: Sequence[StageFigure]
    search: SearchResult
    parts: Sequence[TargetResult] = ()

    @property
    def target(self) -> str:
        """The name of the target."""
        return self.data.candidates.target

    @property
    def built(self) -> Mapping[str, Built]:
        """Every candidate by id."""
        return self.data.candidates.by_id

    def runners(self, combination: Combination) -> dict[str, Runner]:
        """Return the runners of a combination by stage."""
        built = self.built
        return {stage: self.data.runner(built[candidate]) for stage, candidate in combination.items()}

    def size_bytes(self, combination: Combination) -> int:
        """Return the size of a combination's stage files, frontends apart; one that several stages run counts once."""
        figures = {figure.candidate: figure for figure in self.figures}
        return sum(figure.size_bytes for figure in once_a_file(figures[name] for name in combination.values()))

    @property
    def float_p50(self) -> float:
        """The sum of the float files' medians."""
        return sum(figure.p50 for figure in self.figures if figure.is_float)

    def mixes(self, combination: Combination) -> bool:
        """Tell whether a combination runs in more than one runtime."""
        return len({self.built[candidate].target for candidate in combination.values()}) > 1

    @property
    def floats(self) -> Combination:
        """The combination of the float files."""
        return {figure.stage: figure.candidate for figure in self.figures if figure.is_float}


def searched(
    data: TargetData,
    timer: Timer,
    machine: Machine,
    note: Callable[[str], None],
    parts: Sequence[TargetResult] = (),
) -> TargetResult:
    """Measure a target's candidates, each alone, and search among their combinations.

    Args:
        data: the candidates.
        timer: compares them, while no worker runs.
        machine: what it measures on.
        note: is told what is going on.
        parts: the results of the targets that it joins, if it does.

    Raises:
        EdgefuseError: if an unpruned float file cannot be timed.
    """
    subject, target = data.material.subject, data.candidates.target
    measured: list[StageFigure] = []
    for stage in subject.specs:
        note(f"{target}: measure {stage.name}")
        found, refused = figures(data, stage, timer, machine)
        measured += found
        data = replace(data, candidates=data.candidates.without(refused))
    unlabelled = data.evaluator(UNLABELLED) if UNLABELLED in subject.splits else None
    reference = data.validation.answers(in_torch(subject))
    validation = Judge(subject, "validation", reference)
    more = unlabelled.answers(in_torch(subject)) if unlabelled else {}
    correction = Correction.of(subject, validation.judgements, reference, more)
    built = data.candidates.by_id

    def judge(combination: Combination) -> dict[str, SubsetDrop]:
        """Run a fusion pass and return its paired drops against torch on the validation set, corrected."""
        runners = {stage: data.runner(built[candidate]) for stage, candidate in combination.items()}
        answers = data.validation.answers(runners)
        found = validation.drops(validation.rows(answers))
        return correction.of_drops(found, answers, unlabelled.answers(runners) if unlabelled else {})

    settings, budget = subject.recipe.search, subject.budget
    search = Search(
        measured,
        judge,
        budget.max_drop,
        subject.budget_keys,
        settings.max_fusion_passes,
        objectives=settings.objectives,
        caution=settings.caution,
        limits=settings.limits,
        shares=subject.recipe.ladder.shares if subject.recipe.ladder else (),
        weights={key: budget.weight("validation", key) for key in subject.budget_keys},
        smallest_scale=budget.smallest_scale,
        leaves=[stage.name for stage in subject.specs if is_leaf(stage)],
    )
    note(f"{target}: search")
    return TargetResult(data, machine, measured, search.run(), parts)
