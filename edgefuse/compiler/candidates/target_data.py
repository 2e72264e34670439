"""A target's candidates on the data of a compile: their features and their answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice

import numpy as np

from edgefuse.bundle.manifest import Tolerance
from edgefuse.bundle.spec import StageSpec, subset_name
from edgefuse.compiler.candidates.built import Built, FileRunner
from edgefuse.compiler.candidates.golden import Checked, GoldenInputs
from edgefuse.compiler.candidates.toolchain import Toolchain, Toolchains
from edgefuse.compiler.evaluation.evaluator import Evaluator, is_leaf
from edgefuse.compiler.evaluation.runners import Array, Runner, in_torch
from edgefuse.compiler.model.splits import UNLABELLED
from edgefuse.compiler.model.subject import Subject
from edgefuse.compiler.recovery.forms import Forms
from edgefuse.compiler.workers import report
from edgefuse.datasets.cache import Cache
from edgefuse.measure.agreement import agreement
from edgefuse.runtime.decoding import TOKEN
from edgefuse.stages.stage import Feeds

_TIMED_FEEDS = 16
# What is written for an infinite ratio: no difference at all.
_EXACT_DB = 200.0


@dataclass(frozen=True)
class Material:
    """What candidates are made of: the model and its data, all forms of its stages, what they are held to."""

    subject: Subject
    forms: Forms
    golden: GoldenInputs
    cache: Cache


@dataclass(frozen=True)
class Candidates:
    """The files for a target.

    Attributes:
        target: its name.
        built: by stage, the unpruned float file first.
        refused: why there is no such candidate, by candidate id.
        checked: how every file did on the golden inputs, by candidate id, the broken ones among them.
    """

    target: str
    built: Mapping[str, tuple[Built, ...]]
    refused: Mapping[str, str] = field(default_factory=dict)
    checked: Mapping[str, Checked] = field(default_factory=dict)

    @cached_property
    def by_id(self) -> dict[str, Built]:
        """Every candidate by its id."""
        return {built.id: built for stage in self.built.values() for built in stage}

    def without(self, refused: Mapping[str, str]) -> Candidates:
        """Return the candidates but some, which are refused: by id, with the reason of each."""
        if not refused:
            return self
        kept = {stage: tuple(one for one in built if one.id not in refused) for stage, built in self.built.items()}
        return replace(self, built=kept, refused={**self.refused, **refused})


@dataclass(frozen=True)
class TargetData:
    """Runs a target's candidates over the splits; what it computes is kept in the cache."""

    material: Material
    candidates: Candidates

    @cached_property
    def toolchains(self) -> Toolchains:
        """The tools of the target, or of each that it joins."""
        return Toolchains.of(self.candidates.target, self.material.cache)

    def tools(self, built: Built) -> Toolchain:
        """Return the tools that a candidate was made with."""
        return self.toolchains.members[built.target]

    def runner(self, built: Built) -> FileRunner:
        """Return what runs a candidate."""
        return FileRunner(built, self.tools(built).backend, self.material.subject.recipe.compile.threads)

    def floats(self) -> dict[str, Runner]:
        """Return what runs each stage in float."""
        return {stage: self.runner(built[0]) for stage, built in self.candidates.built.items()}

    def evaluate(self, stage: StageSpec, candidate: Built) -> None:
        """Run a candidate over all that the search sees, all other stages in float, and keep what it gives."""
        chain = self.floats() | {stage.name: self.runner(candidate)}
        for split in (name for name in ("validation", UNLABELLED) if name in self.material.subject.splits):
            if is_leaf(stage):
                self.evaluator(split).features(stage, chain)
            else:
                self.evaluator(split).answers(chain)

    def timing_feeds(self, stage: StageSpec) -> list[Feeds]:
        """Return real feeds of a stage, every modality present, from the validation set."""
        floats = self.floats()
        return list(islice(self.validation.calibration_feeds(stage, [floats], floats), _TIMED_FEEDS))

    def runs(self, stage: StageSpec) -> float:
        """Return how often a prediction runs a stage: a decoder once per token, in the mean over the validation set."""
        values = self.material.subject.splits["validation"].values
        if stage.role != "decoder":
            return 1.0
        return float(np.mean([values.get(TOKEN, index).shape[1] for index in range(len(values))]))

    def snr_db(self, stage: StageSpec, candidate: Built, against: Built | None = None) -> float:
        """Return the signal-to-noise of a candidate over the validation set against a float file, or else torch.

        Where a stage gives several tensors, it is that of the worst: a mask is exact, whatever becomes of the features.

        Args:
            stage: of the candidate.
            candidate: its file.
            against: the float file to compare with; torch in float32 if None.
        """
        floats = self.floats()  # of all stages before it
        reference = in_torch(self.material.subject) if against is None else floats | {stage.name: self.runner(against)}
        theirs, ours = (self._given(stage, c) for c in (reference, floats | {stage.name: self.runner(candidate)}))
        ratio = agreement([(theirs, ours)], Tolerance()).lowest_db
        return min(max(ratio, -_EXACT_DB), _EXACT_DB)

    def _given(self, stage: StageSpec, chain: Mapping[str, Runner]) -> dict[str, Array]:
        """Return the outputs of a stage, or the model's that are judged if others follow, over the validation set."""
        if is_leaf(stage):
            kept = self.validation.features(stage, chain)
            return {key: kept.flat(key) for key in (stage.key(port.tensor.name) for port in stage.outputs)}
        subject, answers = self.material.subject, self.validation.answers(chain)
        return {name: answers[name][subset_name(subject.subsets[0])] for name in subject.judged}

    @cached_property
    def validation(self) -> Evaluator:
        """Evaluates on the split that the search sees."""
        return self.evaluator("validation")

    def evaluator(self, split: str) -> Evaluator:
        """Return what evaluates on a split."""
        subject = self.material.subject
        return Evaluator(subject, subject.splits[split], self.material.cache, note)


def note(what: str) -> None:
    """Report a step of a job."""
    report(0, 0, what)
