"""The second candidate set: the whole model narrowed, also the features that pass between its stages.

Stages with other interfaces combine among themselves only. So they are a subject of their own, with the same data and
the unpruned model as its reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import msgspec

from edgefuse.bundle.manifest import Pruning, PruningStep
from edgefuse.bundle.spec import StageSpec
from edgefuse.compiler.cache import fingerprint
from edgefuse.compiler.cache.cache import Cache
from edgefuse.compiler.model.splits import TRAIN
from edgefuse.compiler.model.subject import Recovery, Subject
from edgefuse.compiler.recovery.batches import JointExamples, ModelExamples
from edgefuse.compiler.recovery.forms import Pruner, curve, read_form, write_form
from edgefuse.errors import PruneError
from edgefuse.models.fusion import FusionModel
from edgefuse.progress import Progress
from edgefuse.prune.joint import recover_jointly
from edgefuse.prune.narrow import narrowed
from edgefuse.prune.recovery import Epoch
from edgefuse.stages.explicit import as_one_stage, split
from edgefuse.stages.stage import TorchStage

METHOD = "narrow"
_IMPORTANCE = "taylor"
_SPECS = "specs.json"


def narrowed_set(subject: Subject, cache: Cache, progress: Progress) -> Subject | None:
    """Return the subject of the narrowed stages, or None where the recipe asks for none.

    Raises:
        PruneError: if the model cannot be narrowed.
    """
    ratio = subject.recipe.prune.narrow
    return None if ratio is None else Narrowing(subject, cache, progress).narrow(ratio)


@dataclass(frozen=True)
class Narrowing:
    """Narrows a whole model and lets it recover, once.

    Args:
        subject: the unpruned model, its data and its recipe.
        cache: where the stages and the checkpoint are kept.
        progress: is told how recovery goes.
    """

    subject: Subject
    cache: Cache
    progress: Progress

    def narrow(self, ratio: float) -> Subject:
        """Remove a fraction of every width.

        Raises:
            PruneError: if the model cannot be narrowed.
        """
        step = PruningStep(method=METHOD, ratio=ratio, importance=_IMPORTANCE)
        recovers = self.subject.recipe.recover.epochs > 0
        pruning = Pruning(steps=(step,), recovery="joint" if recovers else "none")
        pruner = Pruner(self.subject, self.cache, self.progress)
        sources = fingerprint.of_source("export", "compiler/recovery/narrowing.py")
        key = [*pruner.key(self.subject.stages, pruning), sources]
        entry = self.cache.entry("narrowed", key, lambda folder: self._make(folder, pruner, pruning, key))
        specs = msgspec.json.decode((entry / _SPECS).read_bytes(), type=tuple[StageSpec, ...])
        stages = tuple(
            read_form(entry / spec.name, replace(stage, spec=spec), pruning) if _trained(stage) else stage
            for stage, spec in zip(self.subject.stages, specs, strict=True)
        )
        trained = tuple(stage.spec.name for stage in stages if _trained(stage))
        told = (Recovery(trained, pruning, curve(entry / trained[0])),)
        return replace(self.subject, stages=stages, variants={}, recoveries=told, reference=self.subject)

    def _make(self, folder: Path, pruner: Pruner, pruning: Pruning, key: object) -> None:
        """Narrow, recover, and write the stages with their wiring."""
        model = cast(FusionModel, self.subject.model)  # the recipe was refused otherwise
        examples = ModelExamples(self.subject.splits[TRAIN], as_one_stage(model))
        self.progress(0, 0, f"narrow the interfaces of {self.subject.spec.name}")
        (step,) = pruning.steps
        stages = split(narrowed(model, step.ratio, step.importance, examples))
        self._check_frontends(stages)
        modules = {stage.spec.name: stage.module for stage in stages if _trained(stage)}
        history: tuple[Epoch, ...] = ()
        if pruning.recovery != "none":
            found = recover_jointly(
                modules,
                self.subject.stages,
                self.subject.spec,
                JointExamples(pruner.training),
                pruner.table,
                replace(self.subject.recipe.recover.settings, joint_rate=1.0),  # nothing has recovered alone before
                checkpoint=pruner.checkpoint(key),
                progress=self.progress,
            )
            modules, history = dict(found.modules), found.history
        for name, module in modules.items():
            (folder / name).mkdir()
            write_form(folder / name, module, history)
        (folder / _SPECS).write_bytes(msgspec.json.encode([stage.spec for stage in stages]))

    def _check_frontends(self, stages: Sequence[TorchStage]) -> None:
        """Refuse a model in which signal processing, which all candidates share, was narrowed, too."""
        for ours, theirs in zip(self.subject.stages, stages, strict=True):
            if not _trained(ours) and fingerprint.of_module(ours.module) != fingerprint.of_module(theirs.module):
                raise PruneError(
                    f"narrowing changed the weights of '{ours.spec.name}'",
                    expected="a frontend without weights that could be narrowed",
                    fix="move its layers into the encoder, or leave [prune] narrow out",
                )


def _trained(stage: TorchStage) -> bool:
    return stage.spec.role != "frontend"
