"""What prunes: asked of the pruners themselves, on generated samples and without recovery."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import msgspec
import torch
from torch import Tensor

from edgefuse.bundle.manifest import Pruning, PruningStep
from edgefuse.compiler.cache import fingerprint
from edgefuse.compiler.check.record import PrunedStage
from edgefuse.compiler.check.sizes import nonzero_of
from edgefuse.compiler.recipe.recipe import Recipe
from edgefuse.compiler.workers import Workers, report
from edgefuse.datasets.cache import Cache
from edgefuse.errors import PruneError, cited
from edgefuse.prune.attention import FAILURES
from edgefuse.prune.hidden import HiddenPruner
from edgefuse.prune.pruner import apply_steps
from edgefuse.prune.structured import StructuredPruner
from edgefuse.prune.trial import Verdict, try_widths
from edgefuse.stages.examples import call_torch, example_feeds
from edgefuse.stages.stage import Feeds, TorchStage, parameters_of

_NARROWING = (StructuredPruner.name, HiddenPruner.name)
_SHOWN = PruningStep(method=StructuredPruner.name, ratio=0.5)
"""What is tried where the recipe prunes nothing, to show what could be."""

_SAMPLES = 8
_SOURCES = ("prune", "stages", "compiler/check/pruning.py")


def trials(recipe: Recipe, stages: Sequence[TorchStage], cache: Cache, workers: Workers) -> tuple[PrunedStage, ...]:
    """Try what the recipe prunes on its stages; if it prunes nothing, show what could be pruned.

    Args:
        recipe: with its variants.
        stages: unpruned.
        cache: that keeps what came of it.
        workers: that try.
    """
    by_name = {stage.spec.name: stage for stage in stages}
    jobs = [
        (by_name[name], variant.steps, True)
        for variant in recipe.prune.variants
        for name in variant.stages
        if name in by_name
    ]
    if not jobs:
        jobs = [(stage, (_SHOWN,), False) for stage in stages if stage.spec.role != "frontend"]
    return tuple(workers.map(TryPruning(cache), jobs, "check: narrow stages"))


@dataclass(frozen=True)
class TryPruning:
    """Prunes a stage as a compile would, but on generated samples and without recovery."""

    cache: Cache

    def __call__(self, job: tuple[TorchStage, tuple[PruningStep, ...], bool]) -> PrunedStage:
        """Take the stage, the steps, and whether the recipe asks for them."""
        stage, steps, asked = job
        report(0, 0, f"check: narrow {stage.spec.name}")
        key = [stage.spec, fingerprint.once(stage.module), steps, asked, fingerprint.of_source(*_SOURCES)]
        return self.cache.record("trial", key, PrunedStage, lambda: _tried(stage, steps, asked=asked))


def _tried(stage: TorchStage, steps: tuple[PruningStep, ...], *, asked: bool) -> PrunedStage:
    found = PrunedStage(stage=stage.spec.name, pruning=Pruning(steps=steps).id, asked=asked)
    try:
        widths = _widths(stage, steps)
        module = apply_steps(stage, steps, _Generated(stage))
    except PruneError as error:
        return msgspec.structs.replace(found, says=str(error))
    except FAILURES as error:  # of the stage's own code, on what a pruner made of it
        return msgspec.structs.replace(found, says=f"it fails when it is pruned so: {cited(error)}")
    return msgspec.structs.replace(
        found,
        parameters=parameters_of(module),
        nonzero=nonzero_of(module),
        widths=len(widths),
        narrows=sum(width.narrows for width in widths),
        stays=tuple(width.reason for width in widths if not width.narrows),
    )


def _widths(stage: TorchStage, steps: Sequence[PruningStep]) -> list[Verdict]:
    """Return what came of narrowing each width once, of those that the first step that narrows any looks at."""
    step = next((step for step in steps if step.method in _NARROWING), None)
    if step is None or not 0 < step.ratio < 1:
        return []
    tried = try_widths(stage, step.ratio)
    return [width for width in tried if width.hidden or step.method != HiddenPruner.name]


class _Generated:
    """Examples of a stage, generated from its spec: enough to rank channels somehow, and to see what a pruner does."""

    def __init__(self, stage: TorchStage) -> None:
        self._stage = stage

    def __len__(self) -> int:
        return _SAMPLES

    def batch(self, indices: Sequence[int]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Return inputs of the stage's module, batch first, and its outputs."""
        found = [self._pairs[int(index) % _SAMPLES] for index in indices]
        inputs, outputs = (tuple(map(torch.cat, zip(*side, strict=True))) for side in zip(*found, strict=True))
        return inputs, outputs

    @cached_property
    def _pairs(self) -> list[tuple[list[Tensor], list[Tensor]]]:
        return list(self._made())

    def _made(self) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
        for feeds in example_feeds(self._stage, count=_SAMPLES, fixed=True):
            yield _tensors(self._stage, feeds), [value.clone() for value in call_torch(self._stage, feeds).values()]


def _tensors(stage: TorchStage, feeds: Feeds) -> list[Tensor]:
    return [torch.tensor(feeds[port.tensor.name]) for port in stage.spec.inputs]
