"""Train `dialogue`: every step encodes a batch once and decodes it twice, with everything and with a random subset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from edgefuse.bundle.spec import subset_name
from edgefuse.datasets.dialogue.items import START, STEPS, DialogueItems
from edgefuse.datasets.sample import Sample
from edgefuse.models.dialogue import fitting
from edgefuse.models.dialogue.decoder import TransformerDecoder
from edgefuse.models.dialogue.fitting import Features, Inputs, Progress, Settings
from edgefuse.models.fusion import FusionModel, masked
from edgefuse.models.reference.batches import Prepare, stacked, subset_rows

__all__ = ["Batch", "Score", "Settings", "collate", "decoded", "fit", "scores_by_subset"]

IGNORED = -100


@dataclass(frozen=True)
class Batch(Inputs):
    """Prepared samples.

    Attributes:
        tokens: the token before each step, int64 [B, STEPS].
        targets: that of each step, int64 [B, STEPS], `IGNORED` behind the end.
    """

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
    targets = torch.full((len(samples), STEPS), IGNORED)
    for row, sample in enumerate(samples):
        targets[row, : len(sample.target)] = torch.tensor(sample.target)
    tokens = torch.cat([torch.full((len(samples), 1), START), targets[:, :-1].clamp(min=0)], dim=1)
    return Batch(stacked(samples, prepare), tokens, targets)


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
    progress: Progress = lambda *_: None,
) -> None:
    """Train a model in place and leave it in evaluation mode.

    Args:
        model: freshly built from a seed.
        samples: as many as there are epochs times commands.
        prepare: makes a sample's tensors.
        settings: how to train.
        progress: of the epochs.
    """
    entropy = nn.CrossEntropyLoss(ignore_index=IGNORED)

    def loss_of(features: Features, present: Tensor, batch: Batch) -> Tensor:
        logits = decoded(model, features, present, torch.cat([batch.tokens, batch.tokens]))
        loss: Tensor = entropy(logits.flatten(0, 1), torch.cat([batch.targets, batch.targets]).flatten())
        return loss

    fitting.fit(model, samples, partial(collate, prepare=prepare), loss_of, settings, progress)


@torch.inference_mode()
def scores_by_subset(model: FusionModel, batches: Sequence[Batch]) -> dict[str, Score]:
    """Return what is right for every admissible subset of the modalities; the model is put into evaluation mode."""
    model.eval()
    found: dict[str, Score] = {}
    features = [{name: model.encode(name, batch.inputs) for name in model.encoders} for batch in batches]
    for subset, row in zip(model.spec.subsets(), subset_rows(model.spec), strict=True):
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
