"""Passes over a split by workers: of encoders, each chain of files once, and of fusion, a subset at a time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from edgefuse.bundle.spec import StageSpec
from edgefuse.compiler.evaluation.evaluator import Evaluator, leaves_of
from edgefuse.compiler.evaluation.runners import Runner
from edgefuse.compiler.model.subject import Subject
from edgefuse.compiler.workers import Workers, report
from edgefuse.datasets.cache import Cache

Chain: TypeAlias = tuple[str, StageSpec, Mapping[str, Runner]]
"""The name of a split, a stage of one modality, and what runs it and the stages before it."""


@dataclass(frozen=True)
class Passes:
    """Keeps what the stages of a model give over its splits.

    Attributes:
        subject: the model and its data.
        cache: keeps it.
        workers: run the stages.
    """

    subject: Subject
    cache: Cache
    workers: Workers

    def keep_features(self, chains: Iterable[Chain], what: str) -> None:
        """Run stages of one modality; a chain that occurs twice runs once.

        Args:
            chains: the longest first, so that no worker is left with it alone.
            what: the jobs do, for progress and errors.

        Raises:
            EngineError: if workers die or cannot be used.
        """
        distinct: dict[tuple[str, ...], Chain] = {}
        for split, stage, runners in chains:
            chain = {name: runners[name] for name in leaves_of(self.subject.specs, stage)}
            distinct[(split, stage.name, *(runner.identity for runner in chain.values()))] = split, stage, chain
        self.workers.map(_Features(self.subject, self.cache), list(distinct.values()), what)

    def keep_outputs(self, combinations: Iterable[tuple[str, Mapping[str, Runner]]], what: str) -> None:
        """Run combinations of candidates for every subset of the modalities, from features that are kept.

        Args:
            combinations: the name of a split, and what runs every stage.
            what: the jobs do, for progress and errors.

        Raises:
            EngineError: if workers die or cannot be used.
        """
        subject = self.subject
        jobs = [
            (split, subset, runners)
            for split, runners in combinations
            for subset in subject.subsets
            if len(subject.splits[split].with_subset(subject.columns(subset)))
        ]
        self.workers.map(_Outputs(subject, self.cache), jobs, what)


@dataclass(frozen=True)
class _OnSplit:
    subject: Subject
    cache: Cache

    def evaluator(self, split: str) -> Evaluator:
        """Return what runs stages over a split and reports it."""
        data = self.subject.splits[split]
        return Evaluator(self.subject, data, self.cache, lambda what: report(0, 0, f"{split}: {what}"))


@dataclass(frozen=True)
class _Features(_OnSplit):
    """Runs one stage of one modality over a split."""

    def __call__(self, job: Chain) -> None:
        """Take the split, the stage, and what runs it and those before it."""
        split, stage, chain = job
        self.evaluator(split).features(stage, chain)


@dataclass(frozen=True)
class _Outputs(_OnSplit):
    """Runs a combination of candidates over what a split has of one subset of the modalities."""

    def __call__(self, job: tuple[str, tuple[str, ...], Mapping[str, Runner]]) -> None:
        """Take the split, the subset and the combination."""
        split, subset, combination = job
        self.evaluator(split).run(subset, combination)
