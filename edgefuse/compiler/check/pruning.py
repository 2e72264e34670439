"""What prunes: asked of the pruners themselves, on generated samples and without recovery."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from edgefuse.bundle.manifest import Pruning, PruningStep
from edgefuse.compiler.cache import fingerprint
from edgefuse.compiler.check.record import PrunedStage
from edgefuse.compiler.check.sizes import nonzero_of
from edgefuse.compiler.recipe.recipe import Recipe
from edgefuse.compiler.recovery.forms import wanted
from edgefuse.compiler.recovery.rehearsal import rehearsed
from edgefuse.compiler.workers import Workers, report
from edgefuse.datasets.cache import Cache
from edgefuse.errors import PruneError
from edgefuse.prune.generated import GeneratedExamples
from edgefuse.prune.structured import StructuredPruner
from edgefuse.stages.stage import TORCH, TorchStage, parameters_of

_SHOWN = Pruning(steps=(PruningStep(method=StructuredPruner.name, ratio=0.5),))
"""What is tried where the recipe prunes nothing, to show what could be."""

_SOURCES = ("prune", "stages", "compiler/recovery", "compiler/check/pruning.py")


def trials(recipe: Recipe, stages: Sequence[TorchStage], cache: Cache, workers: Workers) -> tuple[PrunedStage, ...]:
    """Try what the recipe prunes on its stages; if it prunes nothing, show what could be pruned.

    Args:
        recipe: with its variants.
        stages: unpruned.
        cache: that keeps what came of it.
        workers: that try.
    """
    by_name = {stage.spec.name: stage for stage in stages}
    asked = [(name, pruning) for name, prunings in wanted(recipe).items() for pruning in prunings if name in by_name]
    jobs = [(by_name[name], pruning, True) for name, pruning in asked]
    if not jobs:
        jobs = [(s, _SHOWN, False) for s in stages if s.spec.role != "frontend" and s.origin == TORCH]
    return tuple(workers.map(TryPruning(cache), jobs, "check: narrow stages"))


@dataclass(frozen=True)
class TryPruning:
    """Rehearses a pruning as a compile does, but on generated samples."""

    cache: Cache

    def __call__(self, job: tuple[TorchStage, Pruning, bool]) -> PrunedStage:
        """Take the stage, how to prune it, and whether the recipe asks for that."""
        stage, pruning, asked = job
        report(0, 0, f"check: narrow {stage.spec.name}")
        key = [stage.spec, fingerprint.once(stage.module), pruning, asked, fingerprint.of_source(*_SOURCES)]
        return self.cache.record("trial", key, PrunedStage, lambda: _tried(stage, pruning, asked=asked))


def _tried(stage: TorchStage, pruning: Pruning, *, asked: bool) -> PrunedStage:
    found = PrunedStage(stage=stage.spec.name, pruning=pruning.id, asked=asked)
    try:
        module, verdicts = rehearsed(stage, pruning, GeneratedExamples(stage))
    except PruneError as error:
        return msgspec.structs.replace(found, says=str(error))
    widths = next(filter(None, verdicts), ())
    return msgspec.structs.replace(
        found,
        parameters=parameters_of(module),
        nonzero=nonzero_of(module),
        widths=len(widths),
        narrows=sum(one.narrows for one in widths),
        stays=tuple(one.reason for one in widths if not one.narrows),
    )
