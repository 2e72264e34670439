"""Fill the cache with many jobs at a time, so that a compile that goes through step by step finds everything there.

What depends on each other makes the rounds: pruned forms recover; all forms are lowered; the stages of one modality are
quantized, then run over the validation set; then the same with the stages after them. When all is measured, what was
chosen runs over the test set. Nothing here is measured by time. Jobs report as the same work does in one process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TypeAlias

from edgefuse.bundle.manifest import Pruning, Scheme
from edgefuse.bundle.spec import StageSpec
from edgefuse.compiler.cache.cache import Cache
from edgefuse.compiler.candidates.toolchain import Built, Toolchain
from edgefuse.compiler.evaluation.evaluator import Evaluator, Runner, in_torch, is_leaf
from edgefuse.compiler.model.subject import Subject
from edgefuse.compiler.recovery.forms import Pruner
from edgefuse.compiler.recovery.narrowing import narrowed_set
from edgefuse.compiler.rungs.rungs import choose
from edgefuse.compiler.sets import CandidateSet, merged
from edgefuse.compiler.target import TargetCompiler, TargetResult
from edgefuse.compiler.timing import HERE, Timer
from edgefuse.compiler.workers import Engine, report
from edgefuse.progress import Progress

Candidates: TypeAlias = Mapping[str, Mapping[str, Sequence[Built]]]
"""What was built, by target and stage."""


@dataclass(frozen=True)
class Recover:
    """Prunes one stage, or narrows the whole model, and lets it recover."""

    subject: Subject
    cache: Cache

    def __call__(self, job: tuple[str, Pruning] | None) -> None:
        """Take a stage's name and how to prune it; None stands for the whole model."""
        if job is None:
            narrowed_set(self.subject, self.cache, report)
        else:
            Pruner(self.subject, self.cache, report).alone(*job)


@dataclass(frozen=True)
class Refer:
    """Runs one stage of the unpruned model in torch over a split, which every drop is measured against."""

    subject: Subject
    cache: Cache

    def __call__(self, job: tuple[str, StageSpec]) -> None:
        """Take the name of a split and a stage of one modality."""
        split, stage = job
        Evaluator(self.subject, self.subject.splits[split], self.cache, _note).features(stage, in_torch(self.subject))


@dataclass(frozen=True)
class Lower:
    """Lowers one form of a stage for a target."""

    subject: Subject
    cache: Cache

    def __call__(self, job: tuple[str, str, int]) -> Built:
        """Take a target, a stage's name, and which of its forms."""
        target, stage, form = job
        return Toolchain.of(target, self.cache).lower(self.subject.forms(stage)[form])


@dataclass(frozen=True)
class Quantize:
    """Applies one scheme to a float file; `built` holds all float files, and all candidates of the stages before."""

    subject: Subject
    cache: Cache
    built: Candidates

    def __call__(self, job: tuple[str, StageSpec, Built, Scheme]) -> Built | str:
        """Take a target, a stage, its file and the scheme; return why there is no candidate where that is so."""
        target, stage, source, scheme = job
        return _compiler(self.subject, self.cache, self.built, target).quantized(stage, source, scheme)


@dataclass(frozen=True)
class Evaluate:
    """Runs one candidate over the validation set, all other stages in float."""

    subject: Subject
    cache: Cache
    built: Candidates

    def __call__(self, job: tuple[str, StageSpec, Built]) -> None:
        """Take a target, a stage, and the candidate."""
        target, stage, candidate = job
        _compiler(self.subject, self.cache, self.built, target).evaluate(stage, candidate)


@dataclass(frozen=True)
class Judge:
    """Runs one stage of a chosen combination over the test split."""

    subject: Subject
    cache: Cache

    def __call__(self, job: tuple[StageSpec, Mapping[str, Runner]]) -> None:
        """Take a stage of one modality, and what runs it and the stages before it."""
        stage, chain = job
        Evaluator(self.subject, self.subject.splits["test"], self.cache, _note).features(stage, chain)


def recover(subject: Subject, cache: Cache, engine: Engine, progress: Progress, timer: Timer = HERE) -> None:
    """Make the pruned forms that the recipe asks for, each apart from the others.

    Raises:
        PruneError: if a stage cannot be pruned as asked.
        EngineError: if workers die or cannot be used.
    """
    if not subject.recipe.prune.wanted:
        return
    wanted = Pruner(subject, cache, progress, timer).wanted()  # may measure latencies: no worker is there yet
    stages = [(stage, pruning) for stage, prunings in wanted.items() for pruning in prunings]
    # What takes longest comes first.
    jobs = [*([None] if subject.recipe.prune.narrow is not None else []), *stages]
    with engine:
        engine.map(Recover(subject, cache), jobs, "prune and recover")


def build(subject: Subject, cache: Cache, engine: Engine) -> None:
    """Make all candidates for all targets of the recipe and run each over the validation set.

    Raises:
        ExportError: if a stage cannot be lowered in float.
        EngineError: if workers die or cannot be used.
    """
    leaves = [spec for spec in subject.specs if is_leaf(spec)]
    with engine:
        if subject.reference is None:  # else another subject is the reference
            encoders = [spec for spec in leaves if spec.role != "frontend"]  # which run the frontends before them
            references = [(split, spec) for spec in encoders for split in ("test", "validation")]
            engine.map(Refer(subject, cache), references, "run the reference")
        built = _lowered(subject, cache, engine)
        for stages in (leaves, *([spec] for spec in subject.specs if not is_leaf(spec))):
            _quantize(subject, cache, engine, built, stages)
            jobs = [(target, stage, one) for target in built for stage in stages for one in built[target][stage.name]]
            engine.map(Evaluate(subject, cache, built), jobs, "run candidates")


def judge(
    sets: Sequence[CandidateSet], results: Sequence[Sequence[TargetResult]], cache: Cache, engine: Engine
) -> None:
    """Run the encoders of all rungs that will be chosen over the test split.

    Args:
        sets: the candidate sets.
        results: by target, of each set.
        cache: what is filled.
        engine: runs the jobs.

    Raises:
        EngineError: if workers die or cannot be used.
    """
    jobs: dict[tuple[int, tuple[str, ...]], tuple[StageSpec, Mapping[str, Runner]]] = {}  # each file once
    for found in results:
        number, rungs = choose(sets, found)
        whole = merged(found)
        leaves = [spec for spec in sets[number].subject.specs if is_leaf(spec)]
        for stage, combination in product(leaves, rungs.values()):
            chain = {leaf.name: combination[leaf.name] for leaf in leaves if leaf.modality == stage.modality}
            runners = whole.runners(chain)
            if stage.role != "frontend":
                jobs[number, tuple(runner.identity for runner in runners.values())] = stage, runners
    with engine:
        for number, one in enumerate(sets):
            engine.map(Judge(one.subject, cache), [job for (of, _), job in jobs.items() if of == number], "judge")


def _lowered(subject: Subject, cache: Cache, engine: Engine) -> dict[str, dict[str, list[Built]]]:
    jobs = [
        (target, spec.name, form)
        for target in subject.recipe.compile.targets
        for spec in subject.specs
        for form in range(len(subject.forms(spec.name)))
    ]
    built: dict[str, dict[str, list[Built]]] = {}
    for (target, stage, _), one in zip(jobs, engine.map(Lower(subject, cache), jobs, "lower"), strict=True):
        built.setdefault(target, {}).setdefault(stage, []).append(one)
    return built


def _quantize(
    subject: Subject,
    cache: Cache,
    engine: Engine,
    built: dict[str, dict[str, list[Built]]],
    stages: Sequence[StageSpec],
) -> None:
    """Add the quantized candidates of some stages, in the order in which a serial compile makes them."""
    jobs = [
        (target, stage, source, scheme)
        for target in built
        for stage in stages
        for source, scheme in _compiler(subject, cache, built, target).pairs(stage)
    ]
    made = engine.map(Quantize(subject, cache, built), jobs, "quantize")
    for (target, stage, _, _), one in zip(jobs, made, strict=True):
        if isinstance(one, Built):
            built[target][stage.name].append(one)


def _compiler(subject: Subject, cache: Cache, built: Candidates, target: str) -> TargetCompiler:
    return TargetCompiler(subject, Toolchain.of(target, cache), report, built[target])


def _note(what: str) -> None:
    report(0, 0, what)
