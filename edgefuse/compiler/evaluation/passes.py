"""Passes of encoders over a split, by workers: each chain of files once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from edgefuse.bundle.spec import StageSpec
from edgefuse.compiler.evaluation.evaluator import Evaluator, is_leaf
from edgefuse.compiler.evaluation.runners import Runner
from edgefuse.compiler.model.subject import Subject
from edgefuse.compiler.workers import Workers, report
from edgefuse.datasets.cache import Cache

Chain: TypeAlias = tuple[StageSpec, Mapping[str, Runner]]
"""A stage of one modality, and what runs it and the stages before it."""


def keep_features(
    subject: Subject, split: str, chains: Iterable[Chain], cache: Cache, workers: Workers, what: str
) -> None:
    """Run stages over a split and keep their outputs; a chain that occurs twice runs once.

    Args:
        subject: the model and its data.
        split: the name of one.
        chains: stages, each with the runners of it and of the stages before it.
        cache: that keeps the features.
        workers: that run the chains.
        what: the jobs do, for progress and errors.

    Raises:
        EngineError: if workers die or cannot be used.
    """
    distinct: dict[tuple[str, ...], Chain] = {}
    for stage, runners in chains:
        own = [spec.name for spec in subject.specs if is_leaf(spec) and spec.modality == stage.modality]
        chain = {name: runners[name] for name in own}
        distinct[(stage.name, *(runner.identity for runner in chain.values()))] = stage, chain
    workers.map(_Pass(subject, split, cache), list(distinct.values()), what)


@dataclass(frozen=True)
class _Pass:
    """Runs one stage of one modality over a split."""

    subject: Subject
    split: str
    cache: Cache

    def __call__(self, job: Chain) -> None:
        """Take the stage, and what runs it and those before it."""
        stage, chain = job
        data = self.subject.splits[self.split]
        Evaluator(self.subject, data, self.cache, lambda what: report(0, 0, f"{self.split}: {what}")).features(
            stage, chain
        )
