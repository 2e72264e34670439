"""The pruned forms of stages: pruned, recovered by distillation by workers, and kept in the cache.

Stages recover apart from each other, against what the unpruned stage gives; so their forms combine freely.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
from torch import nn

from edgefuse.bundle.manifest import Pruning, PruningStep
from edgefuse.bundle.spec import Record
from edgefuse.compiler.cache import fingerprint
from edgefuse.compiler.evaluation.evaluator import Evaluator, is_leaf
from edgefuse.compiler.model.splits import TRAIN
from edgefuse.compiler.model.subject import Subject
from edgefuse.compiler.recovery.batches import SubsetTable, TrainingData, examples
from edgefuse.compiler.workers import Tried, Workers, report
from edgefuse.datasets.cache import Cache, digest
from edgefuse.prune.persist import restore, save
from edgefuse.prune.pruner import Examples, apply_steps, method
from edgefuse.prune.recovery import Epoch, recover
from edgefuse.prune.schedule import gradually
from edgefuse.stages.stage import TorchStage
from edgefuse.typed_json import decode

logger = logging.getLogger(__name__)

# A recovery between two steps of the gradual schedule takes this share of the epochs of the last one.
_SHORT = 1 / 3
_SOURCES = ("prune", "compiler/recovery/batches.py", "compiler/recovery/forms.py")


class Curve(Record, frozen=True, kw_only=True):
    """How a form recovered: one point per epoch, from before recovery on."""

    points: tuple[Epoch, ...] = ()


@dataclass(frozen=True)
class Recovery:
    """How a pruned stage came back: the curve from before recovery on."""

    stage: str
    pruning: Pruning
    epochs: tuple[Epoch, ...]


@dataclass(frozen=True)
class Forms:
    """All forms of the stages of a model.

    Attributes:
        unpruned: the stages as they came.
        pruned: other modules behind the same interface, by the stage's name.
        recoveries: how those came to be.
        refused: why a stage could not be pruned so, by stage and `Pruning.id`.
    """

    unpruned: tuple[TorchStage, ...]
    pruned: Mapping[str, tuple[TorchStage, ...]] = field(default_factory=dict)
    recoveries: tuple[Recovery, ...] = ()
    refused: Mapping[tuple[str, str], str] = field(default_factory=dict)

    def of(self, name: str) -> tuple[TorchStage, ...]:
        """Return all forms of a stage, the unpruned one first."""
        unpruned = next(stage for stage in self.unpruned if stage.spec.name == name)
        return (unpruned, *self.pruned.get(name, ()))

    def form(self, name: str, pruning: Pruning | None) -> TorchStage:
        """Return the form of a stage that was pruned so, or not at all."""
        return next(form for form in self.of(name) if form.pruning == pruning)

    @property
    def all_pruned(self) -> list[TorchStage]:
        """The pruned forms of all stages."""
        return [form for forms in self.pruned.values() for form in forms]


def recovered(subject: Subject, cache: Cache, workers: Workers) -> Forms:
    """Prune the stages as the recipe asks, each form by a worker, and let them recover.

    A pruning that a stage does not take is left out, with its reason.

    Args:
        subject: the model and its data.
        cache: that keeps pruned modules.
        workers: that recover them.

    Raises:
        EngineError: if workers die or cannot be used.
    """
    wanted = [(name, pruning) for name, prunings in _wanted(subject).items() for pruning in prunings]
    entries = workers.map(Tried(Recover(subject, cache)), wanted, "prune and recover") if wanted else []
    stages = {stage.spec.name: stage for stage in subject.stages}
    pruned: dict[str, tuple[TorchStage, ...]] = {}
    recoveries: list[Recovery] = []
    refused: dict[tuple[str, str], str] = {}
    for (name, pruning), entry in zip(wanted, entries, strict=True):
        if isinstance(entry, Path):
            pruned[name] = (*pruned.get(name, ()), read_form(entry, stages[name], pruning))
            recoveries.append(Recovery(name, pruning, curve(entry)))
        else:
            logger.warning("%s is not pruned by %s: %s", name, pruning.id, entry)
            refused[name, pruning.id] = str(entry)
    return Forms(subject.stages, pruned, tuple(recoveries), refused)


def _wanted(subject: Subject) -> dict[str, list[Pruning]]:
    """Return what the recipe asks for, by stage."""
    found: dict[str, list[Pruning]] = {}
    recovers = subject.recipe.recover.epochs > 0
    for variant in subject.recipe.prune.variants:
        pruning = Pruning(steps=variant.steps, recovery="alone" if recovers else "none")
        for name in variant.stages:
            found.setdefault(name, []).append(pruning)
    return found


@dataclass(frozen=True)
class Recover:
    """Prunes one stage and lets it recover against the unpruned one, or finds it in the cache."""

    subject: Subject
    cache: Cache

    def __call__(self, job: tuple[str, Pruning]) -> Path:
        """Take a stage's name and how to prune it; return the cache entry of the form.

        Raises:
            PruneError: if the stage cannot be pruned so.
        """
        name, pruning = job
        stage = next(stage for stage in self.subject.stages if stage.spec.name == name)
        return self.cache.entry(
            "pruned", self._key([stage], pruning), lambda folder: self._alone(folder, stage, pruning)
        )

    def _alone(self, folder: Path, stage: TorchStage, pruning: Pruning) -> None:
        settings = self.subject.recipe.recover.settings
        recovers = pruning.recovery != "none"
        data = examples(self._training, stage)
        name = f"{stage.spec.name} {pruning.id}"

        def train(student: nn.Module, reached: float, share: float) -> tuple[nn.Module, tuple[Epoch, ...]]:
            epochs = max(1, round(settings.epochs * share))
            found = recover(
                student,
                data,
                lambda module: self._table({stage.spec.name: module}),
                replace(settings, epochs=epochs),
                role="feature" if is_leaf(stage.spec) else "result",
                checkpoint=self._checkpoint([*self._key([stage], pruning), reached, share]),
                progress=report,
                name=name,
                outputs=self.subject.spec.outputs,
                teacher=stage.module,
            )
            return found.module, found.history

        def short(student: nn.Module, reached: float) -> nn.Module:
            return train(student, reached, _SHORT)[0]

        report(0, 0, f"prune {name}")
        module = stage.module
        for taken in pruning.steps:
            module = _step(replace(stage, module=module), taken, data, short if recovers else None)
        history: tuple[Epoch, ...] = ()
        if recovers:
            module, history = train(module, 1.0, 1.0)
        write_form(folder, module, history)

    @functools.cached_property
    def _training(self) -> TrainingData:
        """The training samples through the unpruned model."""
        return self._through_torch(TRAIN)

    @functools.cached_property
    def _table(self) -> SubsetTable:
        """The validation accuracy by subset, with some stages replaced."""
        return SubsetTable(self._through_torch("validation"))

    def _through_torch(self, split: str) -> TrainingData:
        data = self.subject.splits[split]
        note = lambda what: report(0, 0, f"{split}: {what}")  # noqa: E731
        return TrainingData(self.subject, data, Evaluator(self.subject, data, self.cache, note))

    def _key(self, stages: Sequence[TorchStage], pruning: Pruning) -> list[object]:
        """Return all that a form depends on; the whole model has a say in when recovery stops."""
        return [
            [[stage.spec, fingerprint.of_module(stage.module), stage.pruning] for stage in stages],
            pruning,
            self.subject.recipe.recover,
            self.subject.provenance.weights_sha256,
            [self.subject.splits[name].digest for name in (TRAIN, "validation")],
            fingerprint.of_source(*_SOURCES),
        ]

    def _checkpoint(self, key: object) -> Path:
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
    """Keep a pruned module and its curve in a folder.

    Args:
        folder: of the cache entry.
        module: pruned and recovered.
        history: one entry per epoch.
    """
    (folder / "module").write_bytes(save(module))
    (folder / "curve.json").write_bytes(msgspec.json.encode(Curve(points=history)))


def curve(folder: Path) -> tuple[Epoch, ...]:
    """Return the curve that `write_form` kept."""
    return decode((folder / "curve.json").read_bytes(), Curve).points


def read_form(folder: Path, stage: TorchStage, pruning: Pruning) -> TorchStage:
    """Return the pruned form of a stage that `write_form` kept.

    Args:
        folder: of the cache entry.
        stage: the unpruned one.
        pruning: of the form.
    """
    module = restore(stage.module, (folder / "module").read_bytes())
    return replace(stage, module=module.eval(), pruning=pruning)
