"""One pruned stage: made, and recovered by distillation from the unpruned one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
from torch import nn

from edgefuse.bundle.manifest import Pruning, PruningStep
from edgefuse.compiler.cache import fingerprint
from edgefuse.compiler.model.splits import TRAIN
from edgefuse.compiler.recovery.batches import ThroughTorch, examples
from edgefuse.compiler.recovery.kept import write_form
from edgefuse.compiler.workers import report
from edgefuse.datasets.cache import digest
from edgefuse.prune.pruner import Examples, apply_steps, method
from edgefuse.prune.recovery import Epoch, recover
from edgefuse.prune.schedule import gradually
from edgefuse.stages.stage import TorchStage

# A recovery between two steps of the gradual schedule takes this share of the epochs of the last one.
_SHORT = 1 / 3
_SOURCES = (
    *(f"prune/{name}.py" for name in ("distillation", "training", "recovery", "schedule", "unstructured")),
    "compiler/recovery/batches.py",
    "compiler/recovery/recover.py",
)
"""What a recovery is computed by."""


class Recover(ThroughTorch):
    """Prunes one stage and lets it recover against the unpruned one, or finds it in the cache."""

    def __call__(self, job: tuple[str, Pruning, str]) -> Path:
        """Take a stage's name, how to prune it, and the digest of its rehearsal; return the cache entry of the form.

        Raises:
            PruneError: if the stage cannot be pruned so.
        """
        name, pruning, rehearsed = job
        stage = self.stage(name)
        key = self._key(stage, pruning, rehearsed)
        return self.cache.entry("pruned", key, lambda folder: self._alone(folder, stage, pruning, key))

    def _alone(self, folder: Path, stage: TorchStage, pruning: Pruning, key: Sequence[object]) -> None:
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
                role="result" if all(port.kind == "result" for port in stage.spec.outputs) else "feature",
                checkpoint=self._checkpoint([*key, reached, share]),
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
            module = take_step(replace(stage, module=module), taken, data, short if recovers else None)
        history: tuple[Epoch, ...] = ()
        if recovers:
            module, history = train(module, 1.0, 1.0)
        write_form(folder, module, history)

    def _key(self, stage: TorchStage, pruning: Pruning, rehearsed: str) -> list[object]:
        """Return all that a form depends on; the whole model has a say in when recovery stops.

        How a stage is pruned shows in what comes of it: a change of that code which gives the same weights does not
        throw hours of recovery away.
        """
        return [
            [stage.spec, fingerprint.once(stage.module), stage.pruning],
            pruning,
            rehearsed,
            self.subject.recipe.recover,
            self.subject.provenance.weights_sha256,
            [self.subject.splits[name].digest for name in (TRAIN, "validation")],
            fingerprint.of_source(*_SOURCES),
        ]

    def _checkpoint(self, key: object) -> Path:
        """Return where a recovery keeps how far it came."""
        return self.cache.folder / "recovering" / f"{digest(key)}.pt"


def take_step(
    stage: TorchStage, step: PruningStep, data: Examples, short: Callable[[nn.Module, float], nn.Module] | None
) -> nn.Module:
    """Take one step of pruning, in several where its ratio is high and there is recovery in between.

    Args:
        stage: with the module that the step starts from.
        step: to take.
        data: training examples of the stage.
        short: recovers a module that reached a ratio; None if there is no recovery.
    """

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
