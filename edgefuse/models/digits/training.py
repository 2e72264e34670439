"""Train a fusion model from scratch, the same way every time.

Modality dropout is exhaustive: every step encodes a batch once and fuses it under every admissible subset of the
modalities, so each encoder also learns to decide alone. After the one-cycle schedule (arXiv:1708.07120) training
goes on at the last learning rate until the mean validation accuracy over all subsets stops improving.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from edgefuse.bundle.spec import subset_name
from edgefuse.datasets.sample import Sample
from edgefuse.models.fusion import FusionModel
from edgefuse.models.reference import loop
from edgefuse.models.reference.batches import Batch, Prepare, collate, subset_rows
from edgefuse.models.reference.loop import Step, decayed

Loss = Callable[[Tensor, Tensor], Tensor]
"""Of logits float32 [N, classes] and targets int64 [N]."""


@dataclass(frozen=True)
class TrainSettings:
    """How a model is trained.

    Attributes:
        epochs: length of the one-cycle schedule.
        epoch_items: samples per epoch.
        batch: samples per step.
        learning_rate: the peak; it ends at a hundredth of it.
        warm_up: fraction of the schedule before the peak.
        weight_decay: of weight matrices; biases, norms and vectors have none.
        label_smoothing: probability mass spread over all classes.
        gradient_norm: gradients are clipped at this norm.
        patience: epochs without improvement after the schedule, after which training ends.
        max_epochs: training ends here in any case.
        threads: of torch; another number rounds differently.
        seed: of the initial weights and the order of samples.
    """

    epochs: int = 15
    epoch_items: int = 4600
    batch: int = 64
    learning_rate: float = 1.8e-3
    warm_up: float = 0.2
    weight_decay: float = 0.05
    label_smoothing: float = 0.05
    gradient_norm: float = 1.0
    patience: int = 3
    max_epochs: int = 40
    threads: int = 2
    seed: int = 0


@dataclass(frozen=True)
class Epoch:
    """One point of the training curve.

    Attributes:
        epoch: counted from 1.
        loss: mean training loss over all subsets.
        learning_rate: of the last step.
        accuracy: on the validation data, by subset.
        mean_accuracy: the mean of `accuracy`, which decides when to stop.
        seconds: since training began.
    """

    epoch: int
    loss: float
    learning_rate: float
    accuracy: Mapping[str, float]
    mean_accuracy: float
    seconds: float


@dataclass
class _Best:
    mean_accuracy: float = -1.0
    epoch: int = 0
    state: dict[str, Tensor] = field(default_factory=dict)


M = TypeVar("M", bound=nn.Module)
Forward = Callable[[M, Batch], dict[str, Tensor]]
"""Encodes every modality once and fuses under every admissible subset; gives logits [B, classes] by subset."""


def fit(
    model: M,
    samples: Sequence[Sample],
    validation: Sequence[Batch],
    prepare: Prepare,
    settings: TrainSettings,
    progress: Callable[[Epoch], None] | None = None,
    *,
    forward: Forward[M] | None = None,
    loss: Loss | None = None,
) -> list[Epoch]:
    """Train a model in place and leave it, in evaluation mode, with its best weights.

    Args:
        model: freshly built after `make_deterministic`.
        samples: epoch e sees the e-th run of `epoch_items` samples; the sequence starts over at its end.
        validation: batches on which every epoch is judged.
        prepare: makes a sample's tensors.
        settings: how to train.
        progress: called after every epoch.
        forward: gives the model's logits; None for a `FusionModel`.
        loss: of the logits of all subsets; the smoothed cross-entropy of the settings if None.

    Returns:
        The curve; the best epoch is the first of the highest `mean_accuracy`.
    """
    logits_of: Forward[Any] = forward or logits_by_subset
    loss_of = loss or nn.CrossEntropyLoss(label_smoothing=settings.label_smoothing)
    step = _step(model, settings)
    best = _Best()

    def epochs() -> Iterator[int]:
        for epoch in range(1, settings.max_epochs + 1):
            yield epoch
            if epoch >= settings.epochs and epoch - best.epoch >= settings.patience:
                return

    def losses(epoch: int) -> Iterator[Tensor]:
        model.train()
        for batch in _batches(samples, epoch, prepare, settings):
            logits = logits_of(model, batch)
            yield loss_of(torch.cat(list(logits.values())), batch.targets.repeat(len(logits)))

    def judge(epoch: int, mean_loss: float, seconds: float) -> Epoch:
        accuracy = accuracy_by_subset(model, validation, forward)
        mean = sum(accuracy.values()) / len(accuracy)
        if mean > best.mean_accuracy:
            best.mean_accuracy, best.epoch = mean, epoch
            best.state = {name: value.clone() for name, value in model.state_dict().items()}
        rate = float(step.schedule.get_last_lr()[0])
        return Epoch(epoch, mean_loss, rate, accuracy, mean, seconds)

    curve = loop.fit(epochs(), losses, step, judge, progress)
    model.load_state_dict(best.state)
    model.eval()
    return curve


def _step(model: nn.Module, settings: TrainSettings) -> Step:
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        torch.optim.AdamW(decayed(model, settings.weight_decay)),
        max_lr=settings.learning_rate,
        total_steps=settings.epochs * math.ceil(settings.epoch_items / settings.batch),
        pct_start=settings.warm_up,
        div_factor=10,
        final_div_factor=10,
    )
    return Step(list(model.parameters()), schedule, settings.gradient_norm)


def _batches(samples: Sequence[Sample], epoch: int, prepare: Prepare, settings: TrainSettings) -> Iterator[Batch]:
    """Give the batches of an epoch in an order that depends on the seed and the epoch alone."""
    first = (epoch - 1) * settings.epoch_items
    order = np.random.default_rng([settings.seed, epoch]).permutation(settings.epoch_items) + first
    for start in range(0, settings.epoch_items, settings.batch):
        chosen = order[start : start + settings.batch]
        yield collate([samples[int(index) % len(samples)] for index in chosen], prepare)


def logits_by_subset(model: FusionModel, batch: Batch) -> dict[str, Tensor]:
    """Encode every modality once and fuse under every admissible subset; return logits [B, classes] by subset."""
    names = [modality.name for modality in model.spec.modalities]
    features = {name: model.encode(name, batch.inputs) for name in names}
    count = len(batch.targets)
    subsets = model.spec.subsets()
    present = subset_rows(model.spec).repeat_interleave(count, dim=0)
    fused: dict[str, Tensor] = {}
    for column, name in enumerate(names):
        feature = features[name].repeat(len(subsets), *([1] * (features[name].dim() - 1)))
        mask = present[:, column].reshape(-1, *([1] * (feature.dim() - 1))) > 0
        fused[name] = torch.where(mask, feature, torch.zeros_like(feature))
    outputs = model.fusion(fused, present)
    logits = outputs[0] if isinstance(outputs, tuple) else outputs
    return {subset_name(subset): part for subset, part in zip(subsets, logits.split(count), strict=True)}


@torch.inference_mode()
def accuracy_by_subset(model: M, batches: Sequence[Batch], forward: Forward[M] | None = None) -> dict[str, float]:
    """Return the fraction of right answers for every admissible subset of the modalities.

    Args:
        model: is put into evaluation mode.
        batches: of a split.
        forward: gives the model's logits; None for a `FusionModel`.
    """
    logits_of: Forward[Any] = forward or logits_by_subset
    model.eval()
    right: dict[str, int] = {}
    total = 0
    for batch in batches:
        total += len(batch.targets)
        for name, logits in logits_of(model, batch).items():
            right[name] = right.get(name, 0) + int((logits.argmax(dim=1) == batch.targets).sum())
    return {name: count / total for name, count in right.items()}
