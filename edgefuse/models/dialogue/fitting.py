"""Training that encodes a batch once and answers it twice: with everything, and with a random subset per sample."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from edgefuse.datasets.sample import MadeSamples, Sample
from edgefuse.models.digits.training import Prepare
from edgefuse.models.fusion import FusionModel

B = TypeVar("B", bound="Inputs")


@dataclass(frozen=True)
class Settings:
    """How a model is trained.

    Attributes:
        epochs: length of the one-cycle schedule.
        batch: samples in a step.
        learning_rate: the highest.
        weight_decay: of AdamW.
        seed: of weights, order and subsets.
    """

    epochs: int = 24
    batch: int = 32
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    seed: int = 0


@dataclass(frozen=True)
class Inputs:
    """Prepared samples, to which a model adds its targets.

    Attributes:
        inputs: tensors with the batch first, as `FusionModel.encode` takes them.
    """

    inputs: Mapping[str, Tensor]


Features: TypeAlias = Mapping[str, Tensor]
Progress: TypeAlias = Callable[[int, float, float], None]
"""Is told the epoch, its mean loss and the seconds since the beginning."""


def fit(
    model: FusionModel,
    samples: MadeSamples,
    collate: Callable[[Sequence[Sample]], B],
    loss_of: Callable[[Features, Tensor, B], Tensor],
    settings: Settings,
    progress: Progress,
    frozen: Collection[str] = (),
) -> None:
    """Train a model in place and leave it in evaluation mode.

    Args:
        model: freshly built from a seed.
        samples: so many for each epoch.
        collate: prepares samples and stacks them.
        loss_of: of features and `present`, both with the batch twice, and the batch, once.
        settings: how to train.
        progress: of the epochs.
        frozen: modalities whose encoders stay as they are.
    """
    per_epoch = len(samples) // settings.epochs
    steps = per_epoch // settings.batch
    optimizer = torch.optim.AdamW(model.parameters(), settings.learning_rate, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, total_steps=settings.epochs * steps, pct_start=0.2
    )
    begun = time.monotonic()
    for epoch in range(settings.epochs):
        model.train()
        for name in frozen:
            model.encoders[name].eval()
        losses = []
        for chosen, partly in _drawn(model, samples, epoch, per_epoch, settings):
            batch = collate(chosen)
            features = {name: _encoded(model, name, batch, name in frozen) for name in model.encoders}
            twice = {name: torch.cat([feature, feature]) for name, feature in features.items()}
            loss = loss_of(twice, torch.cat([torch.ones_like(partly), partly]), batch)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        progress(epoch + 1, sum(losses) / len(losses), time.monotonic() - begun)
    model.eval()


def rows(model: FusionModel) -> Tensor:
    """Return a row of `present` for every admissible subset."""
    names = [modality.name for modality in model.spec.modalities]
    return torch.tensor([[float(name in subset) for name in names] for subset in model.spec.subsets()])


def stacked(samples: Sequence[Sample], prepare: Prepare) -> dict[str, Tensor]:
    """Return the inputs of samples, stacked; `prepare` gives arrays with a batch of one first."""
    prepared = [prepare(sample) for sample in samples]
    return {name: torch.from_numpy(np.concatenate([item[name] for item in prepared])) for name in prepared[0]}


def _encoded(model: FusionModel, name: str, batch: Inputs, frozen: bool) -> Tensor:
    with torch.set_grad_enabled(not frozen):
        return model.encode(name, batch.inputs)


def _drawn(
    model: FusionModel, samples: MadeSamples, epoch: int, per_epoch: int, settings: Settings
) -> Iterator[tuple[list[Sample], Tensor]]:
    """Give the samples of each batch of an epoch, with a random subset of the modalities for each."""
    rng = np.random.default_rng([settings.seed, epoch])
    subsets = rows(model)
    order = rng.permutation(per_epoch) + epoch * per_epoch
    for start in range(0, per_epoch - settings.batch + 1, settings.batch):
        chosen = [samples[int(index)] for index in order[start : start + settings.batch]]
        yield chosen, subsets[torch.from_numpy(rng.integers(len(subsets), size=settings.batch))]
