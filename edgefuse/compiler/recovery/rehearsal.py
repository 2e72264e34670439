"""Prunings rehearsed: every form of every stage is pruned once, without any recovery, before the first one starts.

So what a stage does not take is known in seconds, and not after the hours of those before it.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from edgefuse.bundle.manifest import Pruning
from edgefuse.bundle.spec import Record
from edgefuse.compiler.cache import fingerprint
from edgefuse.compiler.model.splits import TRAIN
from edgefuse.compiler.recovery.batches import ThroughTorch, examples
from edgefuse.compiler.recovery.recover import take_step
from edgefuse.compiler.workers import report
from edgefuse.errors import PruneError, cited
from edgefuse.prune.attention import FAILURES
from edgefuse.prune.persist import restore, save
from edgefuse.prune.pruner import Examples, Verdict, verdicts_of
from edgefuse.stages.stage import TorchStage, outputs_of

_SOURCES = ("prune", "stages", "compiler/recovery")
_BATCH = 4


class Rehearsed(Record, frozen=True, kw_only=True):
    """What came of a rehearsal.

    Attributes:
        digest: of the pruned module.
        kept: what stays as it is inside, each with its reason.
    """

    digest: str
    kept: tuple[str, ...] = ()


class Rehearse(ThroughTorch):
    """Prunes one stage as it will be pruned, with nothing in between, or finds what came of that in the cache."""

    def __call__(self, job: tuple[str, Pruning]) -> Rehearsed:
        """Take a stage's name and how to prune it.

        Raises:
            PruneError: if the stage cannot be pruned so.
        """
        name, pruning = job
        stage = self.stage(name)
        key = [
            [stage.spec, fingerprint.once(stage.module), stage.pruning],
            pruning,
            self.subject.splits[TRAIN].digest,
            fingerprint.of_source(*_SOURCES),
        ]
        return self.cache.record("rehearsed", key, Rehearsed, lambda: self._made(stage, pruning))

    def _made(self, stage: TorchStage, pruning: Pruning) -> Rehearsed:
        report(0, 0, f"try {stage.spec.name} {pruning.id}")
        module, verdicts = rehearsed(stage, pruning, examples(self.training, stage))
        kept = dict.fromkeys(one.reason for by_step in verdicts for one in by_step if one.is_stuck)
        return Rehearsed(digest=fingerprint.of_bytes(save(module)), kept=tuple(kept))


def rehearsed(stage: TorchStage, pruning: Pruning, data: Examples) -> tuple[nn.Module, list[tuple[Verdict, ...]]]:
    """Return a stage's module after all steps, through the ratios of the schedule but without recovery.

    With it comes, by step, what can be narrowed inside, as far as the step looks at it.

    Args:
        stage: unpruned.
        pruning: with its steps.
        data: training examples of the stage.

    Raises:
        PruneError: if the stage cannot be pruned so, or what comes of it not be kept or trained.
    """
    module = stage.module
    verdicts: list[tuple[Verdict, ...]] = []
    between = (lambda module, reached: module) if pruning.recovery != "none" else None
    try:
        for step in pruning.steps:
            here = replace(stage, module=module)
            verdicts.append(verdicts_of(here, step))
            module = take_step(here, step, data, between)
        _trained_once(restore(stage.module, save(module)), data)
    except FAILURES as error:
        raise PruneError(
            f"the stage '{stage.spec.name}' cannot be pruned by {pruning.id}",
            got=cited(error),
            fix="leave this stage out of the step, or choose another method",
        ) from error
    return module, verdicts


def _trained_once(module: nn.Module, data: Examples) -> None:
    """Take one step of what recovery will do thousands of times, on a module that nobody needs."""
    inputs, _ = data.batch(range(min(len(data), _BATCH)))
    with torch.random.fork_rng(), torch.enable_grad():
        outputs = outputs_of(module.train()(*inputs))
        torch.stack([output.float().sum() for output in outputs]).sum().backward()  # type: ignore[no-untyped-call]
