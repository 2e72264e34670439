"""The pruned forms of stages: pruned, recovered by distillation, and kept in the cache.

Stages recover apart from each other, against what the unpruned stage gives; so their forms combine freely.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
from torch import nn

from edgefuse.bundle.manifest import Pruning, PruningStep
from edgefuse.bundle.spec import Record
from edgefuse.compiler.cache import fingerprint
from edgefuse.compiler.cache.cache import Cache, digest
from edgefuse.compiler.candidates.toolchain import Toolchain
from edgefuse.compiler.evaluation.evaluator import Evaluator, is_leaf
from edgefuse.compiler.model.splits import TRAIN
from edgefuse.compiler.model.subject import Recovery, Subject
from edgefuse.compiler.recovery.batches import SubsetTable, TrainingData, examples
from edgefuse.compiler.recovery.distribute import Point, Points, Prober, distribute, step
from edgefuse.compiler.timing import HERE, Timer, kept
from edgefuse.errors import PruneError
from edgefuse.progress import Progress
from edgefuse.prune.persist import restore, save
from edgefuse.prune.pruner import Examples, apply_steps, method
from edgefuse.prune.recovery import Epoch, recover
from edgefuse.prune.schedule import gradually
from edgefuse.stages.stage import TorchStage

logger = logging.getLogger(__name__)

# A recovery between two steps of the gradual schedule takes this share of the epochs of the last one.
_SHORT = 1 / 3
_SOURCES = ("prune", "compiler/recovery/batches.py", "compiler/recovery/forms.py")


class Curve(Record, frozen=True, kw_only=True):
    """How a form recovered: one point per epoch, from before recovery on."""

    points: tuple[Epoch, ...] = ()


@dataclass(frozen=True)
class Pruner:
    """Makes pruned forms of the stages of a subject, each once.

    Args:
        subject: the model, its data and its recipe.
        cache: where forms and checkpoints are kept.
        progress: is told how recovery goes.
        timer: says what a pruned stage gains.
    """

    subject: Subject
    cache: Cache
    progress: Progress
    timer: Timer = HERE
    recoveries: list[Recovery] = field(default_factory=list, init=False)

    def forms(self) -> dict[str, tuple[TorchStage, ...]]:
        """Return all pruned forms by stage.

        Raises:
            PruneError: if a stage cannot be pruned as the recipe asks.
        """
        return {
            name: tuple(self.alone(name, pruning) for pruning in prunings) for name, prunings in self.wanted().items()
        }

    def wanted(self) -> dict[str, list[Pruning]]:
        """Return what the recipe asks for, by stage; for a goal in latency, what was measured decides."""
        found: dict[str, list[Pruning]] = {}
        recovers = self.subject.recipe.recover.epochs > 0
        if (goal := self.subject.recipe.prune.latency) is not None:
            ratios = distribute(self._measured(), goal)
            recovery = Pruning(steps=(), recovery="alone" if recovers else "none")
            return {n: [msgspec.structs.replace(recovery, steps=(step(r),))] for n, r in ratios.items() if r}
        for variant in self.subject.recipe.prune.variants:
            pruning = Pruning(steps=variant.steps, recovery="alone" if recovers else "none")
            for name in variant.stages:
                found.setdefault(name, []).append(pruning)
        return found

    def _measured(self) -> dict[str, tuple[Point, ...]]:
        """Measure what pruning gains and costs, for every stage that can be pruned, on the recipe's first target."""
        wanted = self.subject.recipe.compile
        toolchain = Toolchain.of(wanted.targets[0], self.cache)
        machine = self.timer.describe(toolchain.backend, wanted.threads)
        found: dict[str, tuple[Point, ...]] = {}
        for stage in self.subject.stages:
            if stage.spec.role == "frontend":
                continue
            key = [*self.key([stage], Pruning(steps=())), self.timer.unit, machine, fingerprint.of_compiler()]
            prober, data = Prober(toolchain, wanted.threads, self.timer), examples(self.training, stage)
            self.progress(0, 0, f"measure what pruning {stage.spec.name} gains")
            try:
                make = functools.partial(prober.measure, stage, data)
                measured = kept.timings(self.cache, "pruning-points", key, Points, make, self.timer)
            except PruneError as error:
                logger.warning("%s is not pruned: %s", stage.spec.name, error)
                continue
            found[stage.spec.name] = measured.points
            if seen := "; ".join(measured.pressure.seen):
                logger.warning("how much to prune %s was measured on a busy machine: %s", stage.spec.name, seen)
        return found

    def alone(self, name: str, pruning: Pruning) -> TorchStage:
        """Prune one stage and let it recover against the unpruned one."""
        stage = self.subject.forms(name)[0]
        entry = self.cache.entry(
            "pruned", self.key([stage], pruning), lambda folder: self._alone(folder, stage, pruning)
        )
        self.recoveries.append(Recovery((name,), pruning, curve(entry)))
        return read_form(entry, stage, pruning)

    def _alone(self, folder: Path, stage: TorchStage, pruning: Pruning) -> None:
        settings = self.subject.recipe.recover.settings
        recovers = pruning.recovery != "none"
        data = examples(self.training, stage)
        name = f"{stage.spec.name} {pruning.id}"

        def train(student: nn.Module, reached: float, share: float) -> tuple[nn.Module, tuple[Epoch, ...]]:
            epochs = max(1, round(settings.epochs * share))
            found = recover(
                student,
                data,
                lambda module: self.table({stage.spec.name: module}),
                replace(settings, epochs=epochs),
                role="feature" if is_leaf(stage.spec) else "result",
                checkpoint=self.checkpoint([*self.key([stage], pruning), reached, share]),
                progress=self.progress,
                name=name,
                outputs=self.subject.spec.outputs,
                teacher=stage.module,
            )
            return found.module, found.history

        def short(student: nn.Module, reached: float) -> nn.Module:
            return train(student, reached, _SHORT)[0]

        self.progress(0, 0, f"prune {name}")
        module = stage.module
        for taken in pruning.steps:
            module = _step(replace(stage, module=module), taken, data, short if recovers else None)
        history: tuple[Epoch, ...] = ()
        if recovers:
            module, history = train(module, 1.0, 1.0)
        write_form(folder, module, history)

    @functools.cached_property
    def training(self) -> TrainingData:
        """The training samples through the unpruned model."""
        return self._through_torch(TRAIN)

    @functools.cached_property
    def table(self) -> SubsetTable:
        """The validation accuracy by subset, with some stages replaced."""
        return SubsetTable(self._through_torch("validation"))

    def _through_torch(self, split: str) -> TrainingData:
        data = self.subject.splits[split]
        note = lambda what: self.progress(0, 0, f"{split}: {what}")  # noqa: E731
        return TrainingData(self.subject, data, Evaluator(self.subject, data, self.cache, note))

    def key(self, stages: Sequence[TorchStage], pruning: Pruning) -> list[object]:
        """Return all that a form depends on; the whole model has a say in when recovery stops."""
        return [
            [[stage.spec, fingerprint.of_module(stage.module), stage.pruning] for stage in stages],
            pruning,
            self.subject.recipe.recover,
            self.subject.provenance.weights_sha256,
            [self.subject.splits[name].digest for name in (TRAIN, "validation")],
            fingerprint.of_source(*_SOURCES),
        ]

    def checkpoint(self, key: object) -> Path:
        """Return where a recovery keeps how far it came."""
        return self.cache.folder / "recovering" / f"{digest(key)}.pt"


def _step(
    stage: TorchStage, step: PruningStep, data: Examples, short: Callable[[nn.Module, float], nn.Module] | None
) -> nn.Module:
    """Take one step of pruning, in several where its ratio is high and there is recovery in between."""

    def prune(module: nn.Module, ratio: float) -> nn.Module:
        return apply_steps(replace(stage, module=module), [msgspec.structs.replace(step, ratio=ratio)], data)

    if short is None or step.ratio == 0 or not method(step).gradual:
        return prune(stage.module, step.ratio)
    return gradually(
        stage.module,
        step.ratio,
        prune,
        lambda module, reached: module if reached == step.ratio else short(module, reached),
    )


def write_form(folder: Path, module: nn.Module, history: tuple[Epoch, ...]) -> None:
    """Keep a pruned module and its curve in a folder."""
    (folder / "module").write_bytes(save(module))
    (folder / "curve.json").write_bytes(msgspec.json.encode(Curve(points=history)))


def curve(folder: Path) -> tuple[Epoch, ...]:
    """Return the curve that `write_form` kept."""
    return msgspec.json.decode((folder / "curve.json").read_bytes(), type=Curve).points


def read_form(folder: Path, stage: TorchStage, pruning: Pruning) -> TorchStage:
    """Return the pruned form of a stage that `write_form` kept."""
    module = restore(stage.module, (folder / "module").read_bytes())
    return TorchStage(stage.spec, module.eval(), pruning)


def pruned(subject: Subject, cache: Cache, progress: Progress, timer: Timer = HERE) -> Subject:
    """Return a subject with the pruned forms of its stages that the recipe asks for."""
    if not subject.recipe.prune.wanted:
        return subject
    pruner = Pruner(subject, cache, progress, timer)
    return replace(subject, variants=pruner.forms(), recoveries=tuple(pruner.recoveries))
