"""Train a fusion model from scratch, the same way every time.

Modality dropout is exhaustive: every step encodes a batch once and fuses it under every admissible subset of the
modalities, so each encoder also learns to decide alone. After the one-cycle schedule (arXiv:1708.07120) training
goes on at the last learning rate until the mean validation accuracy over all subsets stops improving.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from edgefuse.bundle.spec import ModelSpec, subset_name
from edgefuse.datasets.sample import Sample
from edgefuse.errors import DataError
from edgefuse.models.fusion import FusionModel
from edgefuse.runtime.preprocess import Preprocessor

logger = logging.getLogger(__name__)

Prepare = Callable[[Sample], Mapping[str, npt.NDArray[Any]]]
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
class Batch:
    """Prepared samples.

    Attributes:
        inputs: `"<modality>.<tensor>"` to a tensor with the batch first, as `FusionModel.encode` takes them.
        targets: int64 [B].
    """

    inputs: Mapping[str, Tensor]
    targets: Tensor


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


class Described(Protocol):
    """What a model says of its inputs."""

    @property
    def spec(self) -> ModelSpec:
        """The modalities and the outputs."""

    @property
    def assets(self) -> Mapping[str, bytes]:
        """Files that preprocessing needs, by name."""


class Preprocess:
    """Turn samples into the tensors of a model's modalities, with the code that a device runs."""

    def __init__(self, model: Described) -> None:
        self._readers = {m.name: Preprocessor(m, model.assets.__getitem__) for m in model.spec.modalities}

    def __call__(self, sample: Sample) -> dict[str, npt.NDArray[Any]]:
        """Return every tensor, a batch of one, under `"<modality>.<tensor>"` or `"<modality>.length"`."""
        tensors: dict[str, npt.NDArray[Any]] = {}
        for name, read in self._readers.items():
            tensors.update(read(sample.inputs[name]))
        return tensors


@dataclass
class _Best:
    mean_accuracy: float = -1.0
    epoch: int = 0
    state: dict[str, Tensor] = field(default_factory=dict)


M = TypeVar("M", bound=nn.Module)
Forward = Callable[[M, Batch], dict[str, Tensor]]
"""Encodes every modality once and fuses under every admissible subset; gives logits [B, classes] by subset."""


def make_deterministic(settings: TrainSettings) -> None:
    """Seed torch and hold it to deterministic algorithms; call it before the model is built."""
    torch.manual_seed(settings.seed)
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(settings.threads)


def collate(samples: Sequence[Sample], prepare: Prepare) -> Batch:
    """Prepare samples and stack them; `prepare` gives arrays with a batch of one first."""
    if not samples:
        raise DataError("a batch has no samples", got="none", expected="at least one")
    prepared = [prepare(sample) for sample in samples]
    inputs = {name: torch.from_numpy(np.concatenate([item[name] for item in prepared])) for name in prepared[0]}
    return Batch(inputs, torch.tensor([sample.target for sample in samples], dtype=torch.int64))


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
    steps = math.ceil(settings.epoch_items / settings.batch)
    optimizer = _optimizer(model, settings)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=settings.learning_rate,
        total_steps=settings.epochs * steps,
        pct_start=settings.warm_up,
        div_factor=10,
        final_div_factor=10,
    )
    curve: list[Epoch] = []
    best = _Best()
    start = time.monotonic()
    for epoch in range(1, settings.max_epochs + 1):
        batches = _batches(samples, epoch, prepare, settings)
        mean_loss = _run_epoch(model, batches, optimizer, schedule, settings, logits_of, loss_of)
        accuracy = accuracy_by_subset(model, validation, forward)
        mean = sum(accuracy.values()) / len(accuracy)
        rate = float(optimizer.param_groups[0]["lr"])
        point = Epoch(epoch, mean_loss, rate, accuracy, mean, round(time.monotonic() - start, 1))
        curve.append(point)
        if mean > best.mean_accuracy:
            best = _Best(mean, epoch, {name: value.clone() for name, value in model.state_dict().items()})
        if progress is not None:
            progress(point)
        if epoch >= settings.epochs and epoch - best.epoch >= settings.patience:
            break
    model.load_state_dict(best.state)
    model.eval()
    return curve


def _optimizer(model: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    decayed = [p for p in model.parameters() if p.squeeze().dim() > 1]
    others = [p for p in model.parameters() if p.squeeze().dim() <= 1]
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=settings.learning_rate)


def _batches(samples: Sequence[Sample], epoch: int, prepare: Prepare, settings: TrainSettings) -> Iterator[Batch]:
    """Give the batches of an epoch in an order that depends on the seed and the epoch alone."""
    first = (epoch - 1) * settings.epoch_items
    order = np.random.default_rng([settings.seed, epoch]).permutation(settings.epoch_items) + first
    for start in range(0, settings.epoch_items, settings.batch):
        chosen = order[start : start + settings.batch]
        yield collate([samples[int(index) % len(samples)] for index in chosen], prepare)


def _run_epoch(
    model: M,
    batches: Iterator[Batch],
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.OneCycleLR,
    settings: TrainSettings,
    logits_of: Forward[M],
    loss_of: Loss,
) -> float:
    """Train on the batches of an epoch and return the mean loss."""
    model.train()
    losses: list[float] = []
    for batch in batches:
        logits = logits_of(model, batch)
        loss = loss_of(torch.cat(list(logits.values())), batch.targets.repeat(len(logits)))
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), settings.gradient_norm)
        optimizer.step()
        if schedule.last_epoch < schedule.total_steps - 1:
            schedule.step()
        losses.append(loss.item())
    return sum(losses) / len(losses)


def logits_by_subset(model: FusionModel, batch: Batch) -> dict[str, Tensor]:
    """Encode every modality once and fuse under every admissible subset; return logits [B, classes] by subset."""
    names = [modality.name for modality in model.spec.modalities]
    features = {name: model.encode(name, batch.inputs) for name in names}
    count = len(batch.targets)
    subsets = model.spec.subsets()
    rows = torch.tensor([[float(name in subset) for name in names] for subset in subsets])
    present = rows.repeat_interleave(count, dim=0)
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
