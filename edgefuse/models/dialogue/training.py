"""Train `dialogue`: every step encodes a batch once and decodes it twice, with everything and with a random subset."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from edgefuse.bundle.spec import subset_name
from edgefuse.datasets.dialogue.items import START, STEPS, DialogueItems
from edgefuse.datasets.sample import Sample
from edgefuse.models.dialogue.decoder import TransformerDecoder
from edgefuse.models.digits.training import Prepare
from edgefuse.models.fusion import FusionModel, masked

IGNORED = -100


@dataclass(frozen=True)
class Settings:
    """How `dialogue` is trained.

    Attributes:
        epochs: length of the one-cycle schedule.
        batch: samples in a step.
        learning_rate: the highest.
        weight_decay: of AdamW.
        seed: of weights, order and subsets.
    """

    epochs: int = 8
    batch: int = 32
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    seed: int = 0


@dataclass(frozen=True)
class Batch:
    """Prepared samples.

    Attributes:
        inputs: tensors with the batch first, as `FusionModel.encode` takes them.
        tokens: the token before each step, int64 [B, STEPS].
        targets: that of each step, int64 [B, STEPS], `IGNORED` behind the end.
    """

    inputs: Mapping[str, Tensor]
    tokens: Tensor
    targets: Tensor


@dataclass(frozen=True)
class Score:
    """What is right, with a subset of the modalities.

    Attributes:
        tokens: the fraction of tokens, each given those that are right before it.
        replies: the fraction of replies of which all are: those that are right when a model goes on from its own, too.
    """

    tokens: float
    replies: float


def collate(samples: Sequence[Sample], prepare: Prepare) -> Batch:
    """Prepare samples and stack them; `prepare` gives arrays with a batch of one first."""
    prepared = [prepare(sample) for sample in samples]
    inputs = {name: torch.from_numpy(np.concatenate([item[name] for item in prepared])) for name in prepared[0]}
    targets = torch.full((len(samples), STEPS), IGNORED)
    for row, sample in enumerate(samples):
        targets[row, : len(sample.target)] = torch.tensor(sample.target)
    tokens = torch.cat([torch.full((len(samples), 1), START), targets[:, :-1].clamp(min=0)], dim=1)
    return Batch(inputs, tokens, targets)


def decoded(model: FusionModel, features: Mapping[str, Tensor], present: Tensor, tokens: Tensor) -> Tensor:
    """Return the logits of all steps, float32 [B, STEPS, vocabulary].

    Args:
        model: the whole.
        features: per modality, of all samples.
        present: float32 [B, modalities].
        tokens: the one before each step.
    """
    kept = {name: masked(feature, present[:, column]) for column, (name, feature) in enumerate(features.items())}
    decoder = cast(TransformerDecoder, model.decoder)
    return decoder.forced(tokens, decoder.prepare(*model.fusion(kept, present)))


def fit(
    model: FusionModel,
    samples: DialogueItems,
    prepare: Prepare,
    settings: Settings,
    progress: Callable[[int, float, float], None] = lambda *_: None,
) -> None:
    """Train a model in place and leave it in evaluation mode.

    Args:
        model: freshly built from a seed.
        samples: as many as there are epochs times commands.
        prepare: makes a sample's tensors.
        settings: how to train.
        progress: is told the epoch, its mean loss and the seconds since the beginning.
    """
    per_epoch = len(samples) // settings.epochs
    steps = per_epoch // settings.batch
    optimizer = torch.optim.AdamW(model.parameters(), settings.learning_rate, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, total_steps=settings.epochs * steps, pct_start=0.2
    )
    loss_of, begun = nn.CrossEntropyLoss(ignore_index=IGNORED), time.monotonic()
    for epoch in range(settings.epochs):
        model.train()
        losses = []
        for batch, partly in _batches(model, samples, epoch, per_epoch, prepare, settings):
            features = {name: model.encode(name, batch.inputs) for name in model.encoders}
            twice = {name: torch.cat([feature, feature]) for name, feature in features.items()}
            present = torch.cat([torch.ones_like(partly), partly])
            logits = decoded(model, twice, present, torch.cat([batch.tokens, batch.tokens]))
            loss = loss_of(logits.flatten(0, 1), torch.cat([batch.targets, batch.targets]).flatten())
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        progress(epoch + 1, sum(losses) / len(losses), time.monotonic() - begun)
    model.eval()


def _batches(
    model: FusionModel, samples: DialogueItems, epoch: int, per_epoch: int, prepare: Prepare, settings: Settings
) -> Iterator[tuple[Batch, Tensor]]:
    """Give the batches of an epoch, each with a random subset of the modalities per sample."""
    rng = np.random.default_rng([settings.seed, epoch])
    subsets = _rows(model)
    order = rng.permutation(per_epoch) + epoch * per_epoch
    for start in range(0, per_epoch - settings.batch + 1, settings.batch):
        chosen = [samples[int(index)] for index in order[start : start + settings.batch]]
        yield collate(chosen, prepare), subsets[torch.from_numpy(rng.integers(len(subsets), size=settings.batch))]


def _rows(model: FusionModel) -> Tensor:
    """Return a row of `present` for every admissible subset."""
    names = [modality.name for modality in model.spec.modalities]
    return torch.tensor([[float(name in subset) for name in names] for subset in model.spec.subsets()])


@torch.inference_mode()
def scores_by_subset(model: FusionModel, batches: Sequence[Batch]) -> dict[str, Score]:
    """Return what is right for every admissible subset of the modalities; the model is put into evaluation mode."""
    model.eval()
    found: dict[str, Score] = {}
    features = [{name: model.encode(name, batch.inputs) for name in model.encoders} for batch in batches]
    for subset, row in zip(model.spec.subsets(), _rows(model), strict=True):
        right, whole, counted = 0, 0, 0
        for batch, encoded in zip(batches, features, strict=True):
            logits = decoded(model, encoded, row.expand(len(batch.tokens), -1), batch.tokens)
            valid = batch.targets != IGNORED
            same = logits.argmax(dim=2) == batch.targets
            right += int((same & valid).sum())
            whole += int((same | ~valid).all(dim=1).sum())
            counted += int(valid.sum())
        found[subset_name(subset)] = Score(right / counted, whole / sum(len(batch.tokens) for batch in batches))
    return found
