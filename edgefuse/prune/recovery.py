"""Recovery of one pruned stage by distillation from the unpruned one.

An encoder learns to give the unpruned encoder's features, so it recovers without the rest of the model and its result
combines with any candidate of the other stages. Fusion learns the unpruned outputs under every subset of the modalities
(modality dropout), which its examples enumerate. Labels are not used.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from edgefuse.bundle.spec import Output
from edgefuse.errors import PruneError
from edgefuse.progress import Progress, silent
from edgefuse.prune.checkpoint import identity
from edgefuse.prune.distillation import Distance, Kind, distance, kind_of, variance_of
from edgefuse.prune.pruner import Examples
from edgefuse.prune.training import Epoch, Objective, RecoverySettings, Training, best_of, first_indices
from edgefuse.stages.stage import outputs_of

__all__ = ["Epoch", "Recovered", "RecoverySettings", "hold_tables", "recover"]


@dataclass(frozen=True)
class Recovered:
    """The result of a recovery.

    Attributes:
        module: with the best weights, in eval mode; never worse on validation than the student that came.
        history: the curve, from epoch 0 (before recovery) on.
        best: the epoch whose weights were kept.
    """

    module: nn.Module
    history: tuple[Epoch, ...]
    best: Epoch


def recover(
    student: nn.Module,
    examples: Examples,
    judge: Callable[[nn.Module], Mapping[str, float]],
    settings: RecoverySettings,
    *,
    role: Literal["feature", "result"],
    checkpoint: Path,
    progress: Progress = silent,
    name: str = "student",
    outputs: Sequence[Output] = (),
    teacher: nn.Module | None = None,
) -> Recovered:
    """Train a copy of a pruned stage to match the unpruned one.

    The loss is a sum over the outputs: squared error over the teacher's variance for features and values, divergence
    at a temperature for class scores, angle for embeddings; see `distillation`.

    Args:
        student: the pruned stage; it stays as it is.
        examples: inputs, and what the unpruned stage gives for them.
        judge: returns the validation accuracy by subset of the modalities with a module in the place of the stage.
        settings: how to train.
        role: whether the stage gives features, or results of the model.
        checkpoint: a file that is written after every epoch, read when it starts again, removed at its end.
        progress: told after every step.
        name: of the stage, for messages.
        outputs: what the results are, in order; class scores if it is empty.
        teacher: the unpruned stage; tables that the student has from it stay as they are, see `hold_tables`.

    Raises:
        PruneError: the loss or the accuracy is not a number, or the student gives other outputs than the teacher.
    """
    student = copy.deepcopy(student)
    if teacher is not None:
        hold_tables(student, teacher)
    inputs, goals = examples.batch(first_indices(name, examples))
    kinds = _kinds(name, role, outputs, len(goals))
    distances = _distances(kinds, goals, settings.temperature)

    def loss(indices: Sequence[int]) -> Tensor:
        given, wanted = examples.batch(indices)
        return _total(name, distances, student(*given), wanted)

    first = {f"{number}": tensor for number, tensor in enumerate((*inputs, *goals))}
    facts = {"settings": dataclasses.asdict(settings), "kinds": kinds, "examples": len(examples)}
    key = identity(student, first, facts)
    goal = Objective(name, student, loss, len(examples), lambda: judge(student), key)
    history = Training(goal, settings, checkpoint, progress).run()
    return Recovered(student, history, best_of(history, settings.keep))


def hold_tables(student: nn.Module, teacher: nn.Module) -> None:
    """Take embedding tables that equal the teacher's out of training, in place.

    Training moves the rows of the tokens that its examples hold, and what follows with them. The others would stay
    behind, and a deployed encoder meets them: a table that is already right is better left alone. It is also most of
    the parameters of a small encoder, which an optimizer would go through in every step.
    """
    theirs = {name: part.weight for name, part in teacher.named_modules() if isinstance(part, nn.Embedding)}
    for name, part in student.named_modules():
        if isinstance(part, nn.Embedding) and name in theirs and torch.equal(part.weight, theirs[name]):
            part.weight.requires_grad_(False)


def _kinds(name: str, role: Literal["feature", "result"], outputs: Sequence[Output], count: int) -> list[Kind]:
    """Return what each of `count` outputs of a stage is."""
    if role == "feature" or not outputs:
        kind: Kind = "feature" if role == "feature" else "classes"
        return [kind] * count
    if len(outputs) != count:
        raise PruneError(
            f"the examples of '{name}' have the wrong number of outputs",
            got=count,
            expected=f"{len(outputs)} ({', '.join(output.name for output in outputs)})",
        )
    return [kind_of(output) for output in outputs]


def _distances(kinds: Sequence[Kind], goals: Sequence[Tensor], temperature: float) -> list[Distance]:
    """Return how far each output is from its goal."""
    pairs = zip(kinds, goals, strict=True)
    return [distance(kind, variance=variance_of(goal), temperature=temperature) for kind, goal in pairs]


def _total(
    name: str, distances: Sequence[Distance], given: Tensor | tuple[Tensor, ...], wanted: Sequence[Tensor]
) -> Tensor:
    """Return the sum of the distances between a student's outputs and the teacher's."""
    outputs = outputs_of(given)
    shapes = [list(output.shape) for output in outputs]
    expected = [list(output.shape) for output in wanted]
    if shapes != expected:
        raise PruneError(
            f"the pruned stage '{name}' gives outputs of other shapes than the unpruned one",
            got=shapes,
            expected=expected,
            fix="prune inside the stage only",
        )
    parts = [far(output, goal) for far, output, goal in zip(distances, outputs, wanted, strict=True)]
    return sum(parts[1:], start=parts[0])
