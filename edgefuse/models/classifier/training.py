"""Train `classifier` on labels of very unequal numbers.

As for `digits`, every step encodes a batch once and fuses it under every subset of the modalities. The loss is a
class-balanced focal loss: what a rare label costs is raised by its *effective number* of samples (Cui et al.,
arXiv:1901.05555), and what the model is sure of counts for less (Lin et al., arXiv:1708.02002).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from edgefuse.bundle.spec import subset_name
from edgefuse.datasets.clothing.names import LABELS
from edgefuse.models.classifier.model import Classifier
from edgefuse.models.digits.training import TrainSettings
from edgefuse.models.reference.batches import Batch, subset_rows


@dataclass(frozen=True)
class Settings:
    """How `classifier` is trained.

    Attributes:
        schedule: epochs, batches and learning rate.
        balance: β of the effective numbers; 0 weighs all labels alike, near 1 by the inverse of their numbers.
        focus: γ of the focal loss; 0 is the cross-entropy.
    """

    schedule: TrainSettings = field(
        default_factory=lambda: TrainSettings(
            epochs=7,
            epoch_items=4000,
            batch=32,
            learning_rate=2e-3,
            label_smoothing=0.0,
            patience=0,
            max_epochs=7,
            threads=1,
        )
    )
    balance: float = 0.999
    focus: float = 1.0


class FocalLoss(nn.Module):
    """The mean of weight · (1 − p)^γ · −log p over samples, p the probability of the right label.

    Args:
        weights: float32 [classes].
        focus: γ.
    """

    def __init__(self, weights: Tensor, focus: float) -> None:
        super().__init__()
        self.register_buffer("weights", weights, persistent=False)
        self.weights: Tensor
        self.focus = focus

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of logits [N, classes] and targets int64 [N]."""
        known = torch.log_softmax(logits, dim=1).gather(1, targets.unsqueeze(1)).squeeze(1)
        unsure = (1.0 - known.exp()).clamp(min=0.0) ** self.focus
        return -(self.weights[targets] * unsure * known).mean()


def balanced_weights(counts: Sequence[int], balance: float) -> Tensor:
    """Return a weight per class, float32 [classes], one in the mean over samples.

    Args:
        counts: samples of each class.
        balance: β: weights are as (1 - β) / (1 - β^count).
    """
    numbers = np.asarray(counts, np.float64)
    weights = (1.0 - balance) / (1.0 - balance**numbers)
    return torch.from_numpy(weights * numbers.sum() / (weights * numbers).sum()).to(torch.float32)


def logits_by_subset(model: Classifier, batch: Batch) -> dict[str, Tensor]:
    """Encode every modality once and fuse under every subset; return logits [B, 10] by subset.

    In training, encoders compute products in bfloat16: half the time on a processor that has units for it.
    """
    taken = batch.inputs
    tensors = (taken["image.pixels"], taken["text.ids"], taken["audio.samples"], taken["text.length"])
    with torch.autocast("cpu", torch.bfloat16, enabled=model.training):
        features = [feature.to(torch.float32) for feature in model.encode(*tensors)]
    subsets = model.spec.subsets()
    present = subset_rows(model.spec).repeat_interleave(len(batch.targets), dim=0)
    logits = model.fuse([feature.repeat(len(subsets), 1) for feature in features], present)
    parts = torch.split(logits, len(batch.targets))
    return {subset_name(subset): part for subset, part in zip(subsets, parts, strict=True)}


@torch.inference_mode()
def recall_by_label(model: Classifier, batches: Sequence[Batch]) -> dict[str, float]:
    """Return how much of each label is found with all modalities present: the rare ones show what balancing did."""
    model.eval()
    targets = torch.cat([batch.targets for batch in batches])
    whole = subset_name(tuple(modality.name for modality in model.spec.modalities))
    right = torch.cat([logits_by_subset(model, batch)[whole].argmax(dim=1) for batch in batches]) == targets
    return {name: float(right[targets == label].double().mean()) for label, name in enumerate(LABELS)}
