"""A target's candidates on the data of a compile: their calibration, their features and their answers."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import islice

from edgefuse.bundle.manifest import Tolerance, members
from edgefuse.bundle.scheme import Scheme
from edgefuse.bundle.spec import StageSpec, subset_name
from edgefuse.compiler.candidates.built import Built, FileRunner
from edgefuse.compiler.candidates.golden import Checked, GoldenInputs
from edgefuse.compiler.candidates.schemes import wanted_schemes
from edgefuse.compiler.candidates.toolchain import Calibration, Quantizable, Toolchain
from edgefuse.compiler.evaluation.evaluator import Evaluator, is_leaf, leaves_of
from edgefuse.compiler.evaluation.runners import Array, Runner, in_torch
from edgefuse.compiler.model.subject import Subject
from edgefuse.compiler.recovery.forms import Forms
from edgefuse.compiler.workers import report
from edgefuse.datasets.cache import Cache
from edgefuse.export.target import Target
from edgefuse.measure.agreement import agreement
from edgefuse.runtime.backends.backend import Backend
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
    def toolchains(self) -> dict[str, Toolchain]:
        """The tools of the target, or of each that it joins, by name."""
        return {name: Toolchain.of(name, self.material.cache) for name in members(self.candidates.target)}

    @property
    def tools(self) -> Toolchain:
        """The tools of a target that joins no others."""
        return self.toolchains[self.candidates.target]

    @property
    def title(self) -> str:
        """The target as its makers call it."""
        return " + ".join(tools.target.title for tools in self.toolchains.values())

    @property
    def backends(self) -> list[Backend]:
        """The runtimes of the target."""
        return [tools.backend for tools in self.toolchains.values()]

    def versions(self) -> dict[str, str]:
        """Return the versions of every tool that has a say in the result."""
        return {name: text for tools in self.toolchains.values() for name, text in tools.versions().items()}

    def target(self, built: Built) -> Target:
        """Return the target of a candidate's file."""
        return self.toolchains[built.target].target

    def backend(self, built: Built) -> Backend:
        """Return what opens a candidate's file."""
        return self.toolchains[built.target].backend

    def runner(self, built: Built) -> FileRunner:
        """Return what runs a candidate."""
        return FileRunner(built, self.backend(built), self.material.subject.recipe.compile.threads)

    def floats(self) -> dict[str, Runner]:
        """Return what runs each stage in float."""
        return {stage: self.runner(built[0]) for stage, built in self.candidates.built.items()}

    def pairs(self, stage: StageSpec) -> list[tuple[Built, Scheme]]:
        """Return what may be tried on a stage: its float files, each with every scheme."""
        recipe = self.material.subject.recipe
        wanted = recipe.search.objective, recipe.schemes, recipe.compile.device
        schemes = wanted_schemes(self.tools.quantizer, stage, *wanted)
        return list(itertools.product(self.candidates.built[stage.name], schemes))

    def quantizable(self, stage: StageSpec, source: Built) -> Quantizable:
        """Return what schemes are applied to.

        Args:
            stage: of the file.
            source: the float file.
        """
        form = self.material.forms.form(stage.name, source.pruning)
        return Quantizable(form, source, self._calibration(stage))

    def _calibration(self, stage: StageSpec) -> Calibration:
        """Return the calibration of a stage by what the candidates of the stages before it really give."""
        subject, floats = self.material.subject, self.floats()
        combinations = [floats] if is_leaf(stage) else self._leaf_combinations()
        leaves = [spec.name for spec in subject.specs if is_leaf(spec)]
        runs = [[combination[name].identity for name in leaves] for combination in combinations]
        feeds = partial(self._evaluator("calibration").calibration_feeds, stage, combinations, floats)
        return Calibration(feeds, [subject.splits["calibration"].digest, stage.name, runs])

    def calibration_chains(self, stage: StageSpec) -> list[tuple[StageSpec, Mapping[str, Runner]]]:
        """Return the leaves that a stage is calibrated behind, each of their candidates once, with what runs it."""
        if is_leaf(stage):
            return []
        found = self._evaluator("calibration").calibration_chains(self._leaf_combinations())
        own = partial(leaves_of, self.material.subject.specs)
        return list(
            {(leaf.name, *(chain[o].identity for o in own(leaf))): (leaf, chain) for leaf, chain in found}.values()
        )

    def calibrate(self, stage: StageSpec, chain: Mapping[str, Runner]) -> None:
        """Run a leaf over the calibration set and keep what it gives."""
        self._evaluator("calibration").features(stage, chain)

    def _leaf_combinations(self) -> list[dict[str, Runner]]:
        """Return combinations in which every candidate of every leaf stage appears."""
        leaves = {s.name: self.candidates.built[s.name] for s in self.material.subject.specs if is_leaf(s)}
        count = max((len(built) for built in leaves.values()), default=1)
        floats = self.floats()
        return [
            floats | {name: self.runner(built[number % len(built)]) for name, built in leaves.items()}
            for number in range(count)
        ]

    def evaluate(self, stage: StageSpec, candidate: Built) -> None:
        """Run a candidate over the validation set, all other stages in float, and keep what it gives."""
        chain = self.floats() | {stage.name: self.runner(candidate)}
        if is_leaf(stage):
            self.validation.features(stage, chain)
        else:
            self.validation.outputs(chain)

    def timing_feeds(self, stage: StageSpec) -> list[Feeds]:
        """Return real feeds of a stage, every modality present, from the validation set."""
        floats = self.floats()
        return list(islice(self.validation.calibration_feeds(stage, [floats], floats), _TIMED_FEEDS))

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
        """Return the outputs of a stage, or that of the model if others follow, over the validation set."""
        if is_leaf(stage):
            kept = self.validation.features(stage, chain)
            return {key: kept.flat(key) for key in (stage.key(port.tensor.name) for port in stage.outputs)}
        return {"": self.validation.outputs(chain)[subset_name(self.material.subject.subsets[0])]}

    @cached_property
    def validation(self) -> Evaluator:
        """Evaluates on the split that the search sees."""
        return self._evaluator("validation")

    def _evaluator(self, split: str) -> Evaluator:
        subject = self.material.subject
        return Evaluator(subject, subject.splits[split], self.material.cache, note)


def note(what: str) -> None:
    """Report a step of a job."""
    report(0, 0, what)


def stages_of(specs: Sequence[StageSpec]) -> list[list[StageSpec]]:
    """Return the stages in groups that depend on earlier groups alone: the leaves, then each other stage by itself."""
    return [[spec for spec in specs if is_leaf(spec)], *([spec] for spec in specs if not is_leaf(spec))]
