"""The pruned forms of stages: pruned, recovered by distillation by workers, and kept in the cache.

Stages recover apart from each other, against what the unpruned stage gives; so their forms combine freely.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from edgefuse.bundle.manifest import Pruning
from edgefuse.compiler.model.subject import Subject
from edgefuse.compiler.recipe.recipe import Recipe
from edgefuse.compiler.recovery.kept import read_form, read_history
from edgefuse.compiler.recovery.recover import Recover
from edgefuse.compiler.recovery.rehearsal import Rehearse, Rehearsed
from edgefuse.compiler.workers import Tried, Workers
from edgefuse.datasets.cache import Cache
from edgefuse.errors import EdgefuseError
from edgefuse.prune.training import Epoch
from edgefuse.stages.stage import TorchStage

logger = logging.getLogger(__name__)


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
        kept: what stays as it is inside of a pruned stage, each with its reason, by stage and `Pruning.id`.
    """

    unpruned: tuple[TorchStage, ...]
    pruned: Mapping[str, tuple[TorchStage, ...]] = field(default_factory=dict)
    recoveries: tuple[Recovery, ...] = ()
    refused: Mapping[tuple[str, str], str] = field(default_factory=dict)
    kept: Mapping[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)

    def of(self, name: str) -> tuple[TorchStage, ...]:
        """Return all forms of a stage, the unpruned one first."""
        unpruned = next(stage for stage in self.unpruned if stage.spec.name == name)
        return (unpruned, *self.pruned.get(name, ()))

    def form(self, name: str, pruning: Pruning | None) -> TorchStage:
        """Return the form of a stage that was pruned so, or not at all."""
        return next(form for form in self.of(name) if form.pruning == pruning)

    def without(self, refused: Mapping[tuple[str, str], str]) -> Forms:
        """Return the same without some pruned forms.

        Args:
            refused: why each cannot be used, by stage and `Pruning.id`.
        """
        pruned = {
            name: tuple(form for form in forms if form.pruning is None or (name, form.pruning.id) not in refused)
            for name, forms in self.pruned.items()
        }
        return replace(
            self,
            pruned={name: forms for name, forms in pruned.items() if forms},
            recoveries=tuple(one for one in self.recoveries if (one.stage, one.pruning.id) not in refused),
            refused={**self.refused, **refused},
            kept={key: why for key, why in self.kept.items() if key not in refused},
        )

    @property
    def all_pruned(self) -> list[TorchStage]:
        """The pruned forms of all stages."""
        return [form for forms in self.pruned.values() for form in forms]


def recovered(subject: Subject, cache: Cache, workers: Workers) -> Forms:
    """Prune the stages as the recipe asks, each form by a worker, and let them recover.

    A pruning that a stage does not take is left out, with its reason, before any recovery starts.

    Args:
        subject: the model and its data.
        cache: that keeps pruned modules.
        workers: that recover them.

    Raises:
        EngineError: if workers die or cannot be used.
    """
    asked = [(name, pruning) for name, prunings in wanted(subject.recipe).items() for pruning in prunings]
    refused: dict[tuple[str, str], str] = {}
    kept: dict[tuple[str, str], tuple[str, ...]] = {}
    taken: list[tuple[str, Pruning, str]] = []
    tried = workers.map(Tried(Rehearse(subject, cache)), asked, "try prunings") if asked else []
    for (name, pruning), one in zip(asked, tried, strict=True):
        if isinstance(one, Rehearsed):
            taken.append((name, pruning, one.digest))
            kept[name, pruning.id] = one.kept
        else:
            refused[name, pruning.id] = _left_out(name, pruning, one)
    entries = workers.map(Tried(Recover(subject, cache)), taken, "prune and recover") if taken else []
    stages = {stage.spec.name: stage for stage in subject.stages}
    pruned: dict[str, tuple[TorchStage, ...]] = {}
    recoveries: list[Recovery] = []
    for (name, pruning, _), entry in zip(taken, entries, strict=True):
        if isinstance(entry, Path):
            pruned[name] = (*pruned.get(name, ()), read_form(entry, stages[name], pruning))
            recoveries.append(Recovery(name, pruning, read_history(entry)))
        else:
            refused[name, pruning.id] = _left_out(name, pruning, entry)
    return Forms(subject.stages, pruned, tuple(recoveries), refused, {key: why for key, why in kept.items() if why})


def _left_out(name: str, pruning: Pruning, error: EdgefuseError) -> str:
    logger.warning("%s is not pruned by %s: %s", name, pruning.id, error)
    return str(error)


def wanted(recipe: Recipe) -> dict[str, list[Pruning]]:
    """Return what a recipe asks for, by stage."""
    found: dict[str, list[Pruning]] = {}
    recovers = recipe.recover.epochs > 0
    for variant in recipe.prune.variants:
        pruning = Pruning(steps=variant.steps, recovery="alone" if recovers else "none")
        for name in variant.stages:
            found.setdefault(name, []).append(pruning)
    return found
