"""Training that encodes a batch once and answers it twice: with everything, and with a random subset per sample."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import numpy as np
import torch
from torch import Tensor

from edgefuse.datasets.sample import MadeSamples, Sample
from edgefuse.models.fusion import FusionModel
from edgefuse.models.reference import loop
from edgefuse.models.reference.batches import subset_rows
from edgefuse.models.reference.loop import Step

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
"""Is told the epoch, its mean loss and the seconds until its last step."""


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
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, total_steps=settings.epochs * steps, pct_start=0.2
    )

    def losses(epoch: int) -> Iterator[Tensor]:
        model.train()
        for name in frozen:
            model.encoders[name].eval()
        for chosen, partly in _drawn(model, samples, epoch - 1, per_epoch, settings):
            batch = collate(chosen)
            features = {name: _encoded(model, name, batch, name in frozen) for name in model.encoders}
            twice = {name: torch.cat([feature, feature]) for name, feature in features.items()}
            yield loss_of(twice, torch.cat([torch.ones_like(partly), partly]), batch)

    step = Step(list(model.parameters()), schedule, gradient_norm=1.0)
    loop.fit(range(1, settings.epochs + 1), losses, step, progress)
    model.eval()


def _encoded(model: FusionModel, name: str, batch: Inputs, frozen: bool) -> Tensor:
    with torch.set_grad_enabled(not frozen):
        return model.encode(name, batch.inputs)


def _drawn(
    model: FusionModel, samples: MadeSamples, epoch: int, per_epoch: int, settings: Settings
) -> Iterator[tuple[list[Sample], Tensor]]:
    """Give the samples of each batch of an epoch, with a random subset of the modalities for each."""
    rng = np.random.default_rng([settings.seed, epoch])
    subsets = subset_rows(model.spec)
    order = rng.permutation(per_epoch) + epoch * per_epoch
    for start in range(0, per_epoch - settings.batch + 1, settings.batch):
        chosen = [samples[int(index)] for index in order[start : start + settings.batch]]
        yield chosen, subsets[torch.from_numpy(rng.integers(len(subsets), size=settings.batch))]
