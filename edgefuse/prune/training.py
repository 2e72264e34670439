"""The loop of every recovery: batches in an order fixed by the seed, one cycle of the learning rate, the best epoch.

A run that was interrupted goes on from its last whole epoch and ends with the same bytes as one that was not.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.lr_scheduler import LambdaLR

from edgefuse.errors import PruneError
from edgefuse.progress import Progress
from edgefuse.prune import checkpoint as checkpoints
from edgefuse.prune.unstructured import apply_masks, masks

logger = logging.getLogger(__name__)

State: TypeAlias = dict[str, Tensor]
Precision: TypeAlias = Literal["float32", "bfloat16"]
Keep: TypeAlias = Literal["accuracy", "loss"]

_PROBED_BATCHES = 4
_NOTHING_LOST = 1e-8
"""A student that came with this loss, a share of the variance, computes what the unpruned stage computes."""
_MEASURED = 512


@dataclass(frozen=True)
class RecoverySettings:
    """How pruned stages recover.

    Attributes:
        epochs: length of the learning-rate cycle, and the most epochs there will be.
        batch: examples per step.
        learning_rate: the peak; it begins at a tenth of it and ends at a hundredth.
        patience: epochs without a better one after which a recovery ends.
        seed: of the order of examples, and of dropout.
        threads: of torch; another number rounds differently, and two stages at once beat two threads on one.
        warm_up: fraction of the cycle before the peak.
        weight_decay: of weight matrices; biases, norms and vectors have none.
        gradient_norm: gradients are clipped at this norm.
        temperature: at which class distributions are compared.
        settled: fraction of the epochs, at the end, in which batch norms use and keep their running statistics, as
            they do when deployed.
        keep: what decides which epoch is best: the `accuracy` on the validation data, to a tenth of a point, then the
            loss; or the `loss` alone, where those data are too few to tell epochs apart.
        precision: of the products in training; `bfloat16` is two to three times as fast on a processor with units for
            it (AMX), and slower on others. Weights, losses and what is judged are float32.
    """

    epochs: int = 12
    batch: int = 64
    learning_rate: float = 2e-3
    patience: int = 4
    seed: int = 0
    threads: int = 1
    warm_up: float = 0.1
    weight_decay: float = 0.01
    gradient_norm: float = 1.0
    temperature: float = 2.0
    settled: float = 0.2
    keep: Keep = "accuracy"
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "patience", "threads"):
            _check(name, getattr(self, name), getattr(self, name) >= 1, "at least 1")
        for name in ("learning_rate", "gradient_norm", "temperature"):
            _check(name, getattr(self, name), 0 < getattr(self, name) < math.inf, "a positive number")
        _check("weight_decay", self.weight_decay, 0 <= self.weight_decay < math.inf, "zero or a positive number")
        _check("warm_up", self.warm_up, 0 < self.warm_up < 1, "a fraction between 0 and 1")
        for name, known in (("precision", get_args(Precision)), ("keep", get_args(Keep))):
            _check(name, getattr(self, name), getattr(self, name) in known, " or ".join(known))
        _check("settled", self.settled, 0 <= self.settled <= 1, "a fraction from 0 to 1")


def _check(name: str, value: object, holds: bool, expected: str) -> None:
    if not holds:
        raise PruneError(f"the recovery setting '{name}' is out of range", got=value, expected=expected)


@dataclass(frozen=True)
class Epoch:
    """One point of a recovery's curve.

    Attributes:
        epoch: counted from 1; 0 is the student as it came.
        loss: mean over the epoch's steps; of epoch 0, over a few batches without training.
        accuracy: on the validation data, by subset of the modalities.
        seconds: that the epoch took, judging included.
    """

    epoch: int
    loss: float
    accuracy: Mapping[str, float]
    seconds: float = field(compare=False, default=0.0)

    @property
    def mean_accuracy(self) -> float:
        """The mean over the subsets."""
        return sum(self.accuracy.values()) / len(self.accuracy)


def best_of(history: Sequence[Epoch], keep: Keep) -> Epoch:
    """Return the epoch whose weights are kept; of equal ones the first."""
    if keep == "loss":
        return min(history, key=lambda point: point.loss)
    return max(history, key=lambda point: (round(point.mean_accuracy, 3), -point.loss))


@dataclass(frozen=True)
class Objective:
    """The goal of a training: the module, its loss and its metric.

    Attributes:
        name: what a user calls it.
        module: holds all that is trained.
        loss: of the examples with these indices; differentiable.
        examples: how many there are.
        judge: returns the validation accuracy by subset, with the module in eval mode.
        key: identifies all of this; see `checkpoint.identity`.
    """

    name: str
    module: nn.Module
    loss: Callable[[Sequence[int]], Tensor]
    examples: int
    judge: Callable[[], Mapping[str, float]]
    key: str


class Training:
    """A recovery under way; `run` leaves the module with its best weights, in eval mode."""

    def __init__(self, goal: Objective, settings: RecoverySettings, checkpoint: Path, progress: Progress) -> None:
        self._goal = goal
        self._settings = settings
        self._checkpoint = checkpoint
        self._progress = progress
        self._batch = min(settings.batch, goal.examples)
        # What is left over after whole batches is dropped: a batch norm cannot learn from one example.
        self._steps = goal.examples // self._batch
        self._masks = masks(goal.module)
        self._optimizer = _optimizer(goal.module, settings)
        self._schedule = LambdaLR(
            self._optimizer, partial(rate, steps=settings.epochs * self._steps, warm_up=settings.warm_up)
        )
        self._history: list[Epoch] = []
        self._best = 0
        self._best_state: State = {}
        self._unsaved = False

    def run(self) -> tuple[Epoch, ...]:
        """Train until the end of the schedule or of patience, and return the curve from epoch 0 on.

        Raises:
            PruneError: the loss or the accuracy is not a number.
        """
        with _reproducible(self._settings):
            if not self._resume():
                self._begin()
            while not self._finished():
                self._train_epoch()
                self._save()
            self._goal.module.load_state_dict(self._best_state)
        self._goal.module.eval()
        checkpoints.remove(self._checkpoint)
        return tuple(self._history)

    def _begin(self) -> None:
        """Judge the student as it came: the worst that can be returned."""
        start = time.monotonic()
        self._goal.module.eval()
        with torch.no_grad():
            losses = [float(self._goal.loss(chosen)) for chosen in self._batches(1)[:_PROBED_BATCHES]]
        self._record(0, losses, start)

    def _finished(self) -> bool:
        epoch = self._history[-1].epoch
        if epoch >= self._settings.epochs or self._history[0].loss < _NOTHING_LOST:
            return True
        if epoch - self._best < self._settings.patience:
            return False
        logger.info("%s: nothing better since epoch %d, recovery ends at epoch %d", self._goal.name, self._best, epoch)
        return True

    def _train_epoch(self) -> None:
        epoch = self._history[-1].epoch + 1
        start = time.monotonic()
        self._set_mode(epoch)
        what = self._what(epoch)
        losses: list[float] = []
        for chosen in self._batches(epoch):
            with torch.autocast("cpu", torch.bfloat16, enabled=self._settings.precision == "bfloat16"):
                loss = self._goal.loss(chosen)
            losses.append(self._step(loss))
            done = (epoch - 1) * self._steps + len(losses)
            self._progress(done, self._settings.epochs * self._steps, what)
        self._record(epoch, losses, start)

    def _step(self, loss: Tensor) -> float:
        self._optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self._goal.module.parameters(), self._settings.gradient_norm)
        self._optimizer.step()
        apply_masks(self._goal.module, self._masks)
        self._schedule.step()
        return loss.item()

    def _set_mode(self, epoch: int) -> None:
        self._goal.module.train()
        if epoch <= round(self._settings.epochs * (1 - self._settings.settled)):
            return
        for part in self._goal.module.modules():
            if isinstance(part, _BatchNorm):
                part.eval()

    def _what(self, epoch: int) -> str:
        last = self._history[-1]
        now = f"recover {self._goal.name}, epoch {epoch} of {self._settings.epochs}"
        return f"{now}, loss {last.loss:.4f}, mean accuracy {last.mean_accuracy:.4f}"

    def _batches(self, epoch: int) -> list[list[int]]:
        """Return the batches of an epoch, in an order that depends on the seed and the epoch alone."""
        order = np.random.default_rng([self._settings.seed, epoch]).permutation(self._goal.examples)
        return [[int(index) for index in part] for part in _split(order[: self._steps * self._batch], self._batch)]

    def _record(self, epoch: int, losses: Sequence[float], start: float) -> None:
        loss = sum(losses) / len(losses)
        if not math.isfinite(loss):
            raise PruneError(
                f"the recovery of '{self._goal.name}' diverged in epoch {epoch}",
                got=f"a loss of {loss}",
                expected="a finite loss",
                fix="lower the learning rate, or check the training data",
            )
        self._goal.module.eval()
        accuracy = {name: float(value) for name, value in self._goal.judge().items()}
        if not accuracy or not all(math.isfinite(value) for value in accuracy.values()):
            raise PruneError(
                f"the accuracy of '{self._goal.name}' in epoch {epoch} is not finite", got=accuracy, expected="numbers"
            )
        point = Epoch(epoch, loss, accuracy, round(time.monotonic() - start, 1))
        self._history.append(point)
        if best_of(self._history, self._settings.keep) is point:
            self._best = epoch
            self._best_state = {name: value.clone() for name, value in self._goal.module.state_dict().items()}

    def _save(self) -> None:
        state: dict[str, Any] = {
            "module": self._goal.module.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "random": torch.get_rng_state(),
            "best": self._best,
            "best_state": self._best_state,
            "history": [dataclasses.asdict(point) for point in self._history],
        }
        try:
            checkpoints.save(self._checkpoint, self._goal.key, state)
        except OSError as error:
            if not self._unsaved:
                why = f"{self._checkpoint}: {error.strerror}"
                logger.warning("%s: if it is interrupted, recovery begins anew (%s)", self._goal.name, why)
            self._unsaved = True

    def _resume(self) -> bool:
        state = checkpoints.load(self._checkpoint, self._goal.key)
        if state is None:
            return False
        self._goal.module.load_state_dict(state["module"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        torch.set_rng_state(state["random"])
        self._best, self._best_state = state["best"], state["best_state"]
        self._history = [Epoch(**point) for point in state["history"]]
        logger.info("%s: recovery goes on after epoch %d", self._goal.name, self._history[-1].epoch)
        return True


def rate(step: int, *, steps: int, warm_up: float) -> float:
    """Return the learning rate of a step as a share of its peak: a line from 0.1 up, then a cosine down to 0.01.

    One cycle (arXiv:1708.07120) without its cycle of the momentum.

    Args:
        step: counted from 0.
        steps: how many there will be.
        warm_up: fraction of them before the peak.
    """
    rising = max(1, round(warm_up * steps))
    if step < rising:
        return 0.1 + 0.9 * step / rising
    return 0.01 + 0.99 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising))) / 2


def first_indices(name: str, examples: Sized) -> range:
    """Return the indices of the first examples, from which the teacher's variance is taken.

    Raises:
        PruneError: there are none.
    """
    if len(examples) < 1:
        raise PruneError(f"'{name}' cannot recover without examples", fix="give the data set a split 'train'")
    return range(min(_MEASURED, len(examples)))


def _split(order: Any, size: int) -> Iterator[Any]:
    return (order[start : start + size] for start in range(0, len(order), size))


def _optimizer(module: nn.Module, settings: RecoverySettings) -> torch.optim.Optimizer:
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    decayed = [parameter for parameter in trained if parameter.squeeze().dim() > 1]
    others = [parameter for parameter in trained if parameter.squeeze().dim() <= 1]
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=settings.learning_rate, fused=True)


@contextmanager
def _reproducible(settings: RecoverySettings) -> Iterator[None]:
    """Seed torch, fix its threads and hold it to deterministic algorithms; leave it as it was."""
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    lenient = torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic
    filled = memory.fill_uninitialized_memory
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        torch.set_num_threads(settings.threads)
        torch.use_deterministic_algorithms(True)
        memory.fill_uninitialized_memory = False  # a third more time for an image encoder, and no other result
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(strict, warn_only=lenient)
            memory.fill_uninitialized_memory = filled
