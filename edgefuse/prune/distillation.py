"""How far a student's outputs are from the unpruned stage's: the losses that recovery brings down.

Features follow FitNets (arXiv:1412.6550): the student gives what the teacher gives. Class scores follow Hinton et al.
(arXiv:1503.02531): the distributions agree at a temperature above one, where the wrong classes count, too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from edgefuse.bundle.spec import ClassOutput, EmbeddingOutput, Output, TokensOutput

Kind: TypeAlias = Literal["feature", "classes", "embedding", "values"]
"""What an output is: a feature for other stages, or a result as `ModelSpec.outputs` describes it."""

Distance: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Student (float32, or what it computed in less) and teacher, both [B, ...], to a scalar; 0 where they agree."""


def kind_of(output: Output) -> Kind:
    """Return the kind of a result of the model."""
    if isinstance(output, ClassOutput | TokensOutput):
        return "classes"
    return "embedding" if isinstance(output, EmbeddingOutput) else "values"


def distance(kind: Kind, *, variance: float = 1.0, temperature: float = 1.0) -> Distance:
    """Return the loss for an output of a kind.

    Args:
        kind: features and values are compared by squared error, classes by divergence, embeddings by angle.
        variance: of the teacher's values; an error of it counts as one.
        temperature: of the class distributions.
    """
    if kind == "classes":
        return lambda student, teacher: divergence(student.float(), teacher.float(), temperature)
    if kind == "embedding":
        return lambda student, teacher: angle(student.float(), teacher.float())
    return lambda student, teacher: functional.mse_loss(student.float(), teacher.float()) / variance


def divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return the mean Kullback-Leibler divergence of softened classes, times the square of the temperature.

    The factor keeps gradients at the same size for any temperature (arXiv:1503.02531, section 2).

    Args:
        student: logits, float32 [B, classes], or [B, steps, classes].
        teacher: logits of the same shape.
        temperature: logits are divided by it.
    """
    student, teacher = student.flatten(end_dim=-2), teacher.flatten(end_dim=-2)
    guess = functional.log_softmax(student / temperature, dim=-1)
    goal = functional.log_softmax(teacher / temperature, dim=-1)
    return functional.kl_div(guess, goal, reduction="batchmean", log_target=True) * temperature**2


def angle(student: Tensor, teacher: Tensor) -> Tensor:
    """Return one minus the mean cosine between embeddings, float32 [B, size]."""
    return 1 - functional.cosine_similarity(student, teacher, dim=-1).mean()


def variance_of(values: Tensor) -> float:
    """Return the variance of a teacher's values [B, ...] over the batch, mean over all positions, never zero.

    A constant offset of a feature carries no information, so each position varies around its own mean.
    """
    spread = float(values.double().var(dim=0, correction=0).mean())
    return max(spread, float(torch.finfo(torch.float32).eps))
