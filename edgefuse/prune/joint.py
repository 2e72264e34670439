"""Recovery of several pruned stages together: they learn to give the unpruned model's outputs as a whole.

Every step runs the encoders once and what follows them under every admissible subset of the modalities, as the model
itself is trained. The features stay close to the unpruned ones, too, so that a student can still be swapped for another
candidate of its stage; features of another width than the unpruned ones have nothing to be close to.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

import torch
from torch import Tensor, nn

from edgefuse.bundle.spec import ModelSpec, Source, StageSpec
from edgefuse.errors import PruneError
from edgefuse.models.fusion import masked
from edgefuse.progress import Progress, silent
from edgefuse.prune.checkpoint import identity
from edgefuse.prune.distillation import Distance, distance, kinds_of, variance_of
from edgefuse.prune.recovery import hold_tables
from edgefuse.prune.training import Epoch, Objective, RecoverySettings, Training, first_indices
from edgefuse.stages.stage import TorchStage, keyed

Pool: TypeAlias = dict[str, Tensor]
"""Values by key, as `Source.key` spells them, with the batch first."""


class JointExamples(Protocol):
    """Training examples of a whole model."""

    def __len__(self) -> int:
        """Return how many there are."""

    def batch(self, indices: Sequence[int]) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
        """Return what goes into the model, and the features that its unpruned leaf stages give for it.

        Both map a key, as `Source.key` spells it, to a tensor with the batch first. The first has the tensors and
        lengths of the modalities (`image.pixels`, `text.length`), zeros where absent, and `present`, float32
        [B, modalities]. What no student needs may be left out, and instead of what a frontend takes, what it gives
        will do (`/image_frontend.feature`): a leaf that is not a student is run only if its outputs are missing. The
        second has the outputs of all encoders (`/image_encoder.feature`).
        """


@dataclass(frozen=True)
class RecoveredJointly:
    """What a joint recovery gives: the students by stage name, in eval mode, and the curve from epoch 0 on."""

    modules: Mapping[str, nn.Module]
    history: tuple[Epoch, ...]


def recover_jointly(
    students: Mapping[str, nn.Module],
    stages: Sequence[TorchStage],
    model: ModelSpec,
    examples: JointExamples,
    judge: Callable[[Mapping[str, nn.Module]], Mapping[str, float]],
    settings: RecoverySettings,
    *,
    checkpoint: Path,
    progress: Progress = silent,
) -> RecoveredJointly:
    """Train copies of pruned stages together, towards the outputs of the unpruned model.

    Args:
        students: pruned stages by name; they stay as they are. Stages without one take part as they are, frozen, and
            so do tables that a student has from its stage, see `recovery.hold_tables`.
        stages: all stages of the unpruned model, in an order in which they can run.
        model: says which subsets of the modalities there are, and what the outputs are.
        examples: what goes into the model, with the unpruned features.
        judge: returns the validation accuracy by subset with the students in the places of their stages.
        settings: how to train; the learning rate is taken times `joint_rate`.
        checkpoint: as in `recover`.
        progress: told after every step.

    Raises:
        PruneError: a student of no stage, or a loss or accuracy that is not a number.
    """
    known = [stage.spec.name for stage in stages]
    for name in students:
        if name not in known:
            raise PruneError("a student belongs to no stage", got=repr(name), expected=" or ".join(known))
    trained = nn.ModuleDict({name: copy.deepcopy(students[name]) for name in known if name in students})
    for stage in stages:
        if stage.spec.name in trained:
            hold_tables(trained[stage.spec.name], stage.module)
    objective = _Together(trained, stages, model, examples, settings)
    facts = {"settings": dataclasses.asdict(settings), "students": list(trained), "examples": len(examples)}
    key = identity(trained, objective.first, facts)
    name = ", ".join(trained)
    goal = Objective(name, trained, objective.loss, len(examples), lambda: judge(dict(trained.items())), key)
    settings = dataclasses.replace(settings, learning_rate=settings.learning_rate * settings.joint_rate)
    history = Training(goal, settings, checkpoint, progress).run()
    return RecoveredJointly(dict(trained.items()), history)


class _Together:
    """The loss of all students on a batch: outputs under every subset, and features."""

    def __init__(
        self,
        students: nn.ModuleDict,
        stages: Sequence[TorchStage],
        model: ModelSpec,
        examples: JointExamples,
        settings: RecoverySettings,
    ) -> None:
        self._students = students
        self._model = model
        self._names = [modality.name for modality in model.modalities]
        self._examples = examples
        self._weight = settings.feature_weight
        self._leaves = [stage.spec for stage in stages if stage.spec.modality]
        self._rest = [stage.spec for stage in stages if not stage.spec.modality]
        self._unpruned = {stage.spec.name: _frozen(stage.module) for stage in stages}
        values, features = examples.batch(first_indices(", ".join(students), examples))
        self.first = {**values, **features}
        self._feature_distance = {
            key: distance("feature", variance=variance_of(feature)) for key, feature in features.items()
        }
        self._run = self._needed()
        self._result_distance = self._result_distances(self.first, features, settings.temperature)

    def loss(self, indices: Sequence[int]) -> Tensor:
        """Return the loss on the examples with these indices."""
        values, features = self._examples.batch(indices)
        pool = {**features, **values}
        for stage in self._run:
            pool |= self._leaf(stage, pool)
        total = torch.zeros(())
        for key, feature in features.items():
            if pool[key] is not feature and pool[key].shape == feature.shape:
                total = total + self._weight * self._feature_distance[key](pool[key], feature)
        present, item = self._subsets(pool["present"])
        with torch.no_grad():
            wanted = self._fuse({**pool, **features}, present, item, self._unpruned)
        given = self._fuse(pool, present, item, {**self._unpruned, **dict(self._students.items())})
        for key, far in self._result_distance.items():
            total = total + far(given[key], wanted[key])
        return total

    def _needed(self) -> list[StageSpec]:
        """Return the leaves to run: students, and what they and the stages after them read and the examples lack."""
        read = {port.source.key for stage in self._rest for port in stage.inputs}
        run: list[StageSpec] = []
        for stage in reversed(self._leaves):
            given = {stage.key(port.tensor.name) for port in stage.outputs}
            if stage.name in self._students or not (given & read) <= self.first.keys():
                run.insert(0, stage)
                read |= {port.source.key for port in stage.inputs}
        return run

    def _result_distances(
        self, values: Mapping[str, Tensor], features: Mapping[str, Tensor], temperature: float
    ) -> dict[str, Distance]:
        with torch.no_grad():
            wanted = self._fuse({**values, **features}, *self._subsets(values["present"]), self._unpruned)
        return {
            stage.key(port.tensor.name): distance(
                kind, variance=variance_of(wanted[stage.key(port.tensor.name)]), temperature=temperature
            )
            for stage in self._rest
            for port, kind in zip(stage.outputs, kinds_of(stage, self._model.outputs), strict=True)
            if port.kind == "result"
        }

    def _leaf(self, stage: StageSpec, pool: Mapping[str, Tensor]) -> Pool:
        """Run a leaf on the items that have its modality; the others get zeros."""
        module = self._students[stage.name] if stage.name in self._students else self._unpruned[stage.name]
        has = pool["present"][:, self._names.index(stage.modality)] > 0
        inputs = [pool[port.source.key] for port in stage.inputs]
        if bool(has.all()):
            return keyed(stage, module(*inputs))
        outputs = keyed(stage, module(*(tensor[has] for tensor in inputs)))
        return {key: _spread(output, has) for key, output in outputs.items()}

    def _subsets(self, present: Tensor) -> tuple[Tensor, Tensor]:
        """Return, for every subset and every item that has all of it, the mask and the item's number."""
        masks: list[Tensor] = []
        items: list[Tensor] = []
        for subset in self._model.subsets():
            mask = torch.tensor([float(name in subset) for name in self._names])
            has = torch.nonzero((present >= mask).all(dim=1)).squeeze(1)
            masks.append(mask.expand(len(has), -1))
            items.append(has)
        return torch.cat(masks), torch.cat(items)

    def _fuse(
        self, pool: Mapping[str, Tensor], present: Tensor, item: Tensor, modules: Mapping[str, nn.Module]
    ) -> Pool:
        """Run the stages after the leaves, with zeros for what a subset lacks, and return their outputs by key."""
        found: Pool = {}
        for stage in self._rest:
            inputs = [self._value(port.source, pool, found, present, item) for port in stage.inputs]
            found |= keyed(stage, modules[stage.name](*inputs))
        return found

    def _value(self, source: Source, pool: Mapping[str, Tensor], found: Pool, present: Tensor, item: Tensor) -> Tensor:
        if source.kind == "present":
            return present
        if source.key in found:
            return found[source.key]
        owners = {stage.name: stage.modality for stage in self._leaves}
        column = self._names.index(owners.get(source.owner, source.owner))
        return masked(pool[source.key][item], present[:, column])


def _frozen(module: nn.Module) -> nn.Module:
    """Return a copy that passes gradients on but takes none."""
    return copy.deepcopy(module).eval().requires_grad_(False)


def _spread(values: Tensor, where: Tensor) -> Tensor:
    """Put rows back to where they came from, with zeros between."""
    full = values.new_zeros(len(where), *values.shape[1:])
    return full.index_copy(0, torch.nonzero(where).squeeze(1), values)
