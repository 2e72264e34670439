"""A step of a training, and the loop over its epochs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR

P = TypeVar("P")


def make_deterministic(seed: int, threads: int) -> None:
    """Seed torch and hold it to deterministic algorithms; call it before the model is built.

    Args:
        seed: of torch's random numbers.
        threads: of torch; another number rounds differently.
    """
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(threads)


def decayed(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return all parameters in two groups for an optimizer: weight matrices decay; biases, norms and vectors do not."""
    matrices = [p for p in module.parameters() if p.squeeze().dim() > 1]
    others = [p for p in module.parameters() if p.squeeze().dim() <= 1]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


@dataclass(frozen=True)
class Step:
    """A step of an optimizer, with clipped gradients, along one cycle of its learning rate (arXiv:1708.07120).

    Attributes:
        trained: all that is trained; their order decides how the norm of the gradients is rounded.
        schedule: with its optimizer; where the cycle has ended, the last learning rate stays.
        gradient_norm: gradients are clipped at this norm.
    """

    trained: Sequence[nn.Parameter]
    schedule: OneCycleLR
    gradient_norm: float

    def __call__(self, loss: Tensor) -> float:
        """Make a step, and return the loss."""
        optimizer = self.schedule.optimizer
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.trained, self.gradient_norm)
        optimizer.step()
        if self.schedule.last_epoch < self.schedule.total_steps - 1:
            self.schedule.step()
        return loss.item()


def fit(
    epochs: Iterable[int],
    losses: Callable[[int], Iterable[Tensor]],
    step: Step,
    judge: Callable[[int, float, float], P],
    progress: Callable[[P], None] | None = None,
) -> list[P]:
    """Train epoch after epoch, and return the curve.

    Args:
        epochs: their numbers; the next is asked for after `progress` of the one before.
        losses: of the batches of an epoch; the next is asked for, and computed, after the step of the one before.
        step: makes a step from a loss.
        judge: makes a point of the curve of an epoch, its mean loss, and the seconds until its last step.
        progress: called with every point.
    """
    curve: list[P] = []
    begin = time.monotonic()
    for epoch in epochs:
        found = [step(loss) for loss in losses(epoch)]
        curve.append(judge(epoch, sum(found) / len(found), round(time.monotonic() - begin, 1)))
        if progress is not None:
            progress(curve[-1])
    return curve
