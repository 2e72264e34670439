"""Train the maps of `retrieval` on what its frozen encoders give.

Every step takes one view of each training stamp's picture, caption and speech, and brings the three together: a
contrastive loss for each pair of modalities (InfoNCE, arXiv:1807.03748, both ways as in CLIP, arXiv:2103.00020; what
has the same caption is right, too). The classes of ImageNet stand beside the stamps: what a picture of nothing but a
class would be mapped to is to find the class's name. The maps of pictures and captions begin where that alone puts them
(ConSE, arXiv:1312.5650): at the principal components of the names.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor, nn

from edgefuse.models.assistant.training import Embeddings
from edgefuse.models.retrieval.model import CLASSES, SIZE, Retrieval, unit

MODALITIES = ("image", "audio", "text")


@dataclass(frozen=True)
class TrainSettings:
    """How the maps are trained.

    Attributes:
        turns: augmented passes over the training recordings that the encoders see.
        steps: of one view of every training stamp.
        learning_rate: at first; it falls to zero along a cosine.
        image_decay: weight decay of the map of a picture's features, of which few pictures teach many weights.
        image_dropout: probability of each number of a picture's features to be zeroed.
        dropout: the same for captions, speech, and what a picture resembles.
        classes: of ImageNet in each step.
        temperature: by which similarities are divided.
        threads: of torch; another number rounds differently.
        seed: of the initial weights and of all draws.
    """

    turns: int = 3
    steps: int = 300
    learning_rate: float = 3e-4
    image_decay: float = 10.0
    image_dropout: float = 0.8
    dropout: float = 0.3
    classes: int = 256
    temperature: float = 0.07
    threads: int = 1
    seed: int = 0


@torch.no_grad()
def begin(model: Retrieval, names: Tensor) -> None:
    """Set the maps of pictures and captions to what the names of ImageNet's classes alone make of them.

    Args:
        model: in place.
        names: what the pretrained text encoder gives for them, [1000, 384].
    """
    centred = names - names.mean(dim=0)
    _, _, components = torch.linalg.svd(centred, full_matrices=False)
    axes = components[:SIZE]
    model.texts.head.weight.copy_(axes)
    model.texts.head.bias.copy_(-axes @ names.mean(dim=0))
    model.pictures.named.weight.copy_(axes @ (centred / centred.norm(dim=1, keepdim=True)).T)
    model.pictures.head.weight.zero_()
    model.pictures.head.bias.zero_()


@torch.inference_mode()
def points(model: Retrieval, data: Embeddings) -> dict[str, Tensor]:
    """Return the points of all items by modality, [N, 256]."""
    model.eval()
    deciders = {"image": model.pictures, "audio": model.sounds, "text": model.texts}
    return {name: deciders[name].decide(data.inputs[name]) for name in MODALITIES}  # type: ignore[operator]


def fit(
    model: Retrieval,
    data: Embeddings,
    captions: Tensor,
    names: Tensor,
    settings: TrainSettings,
    progress: Callable[[int, float], None] | None = None,
) -> list[float]:
    """Train the maps in place, and leave the model in evaluation mode.

    Args:
        model: after `begin`.
        data: training data; a stamp's rows are views of it.
        captions: int64 [N], the same number for items with the same caption.
        names: what the pretrained text encoder gives for the names of ImageNet's classes, [1000, 384].
        settings: how to train.
        progress: called with step and loss.

    Returns:
        The losses.
    """
    model.train()
    head = model.pictures.head
    trained = [p for name, p in model.named_parameters() if ".backbone." not in name and ".classifier." not in name]
    decayed = [{"params": [head.weight], "weight_decay": settings.image_decay}]
    others = [{"params": [p for p in trained if p is not head.weight], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW([*decayed, *others], lr=settings.learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * step / settings.steps))
    )
    with torch.no_grad():
        resembles = model.pictures.resembles(data.inputs["image"])
    views = _Views(data.stamps)
    losses: list[float] = []
    for step in range(settings.steps):
        found = {name: views.draw() for name in MODALITIES}
        inputs = {name: data.inputs[name][rows] for name, rows in found.items()}
        loss = _loss(model, inputs, resembles[found["image"]], captions[found["text"]], settings)
        loss = loss + _of_names(model, names, settings)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if progress is not None:
            progress(step + 1, losses[-1])
    model.eval()
    return losses


class _Views:
    """Draws a row of every stamp."""

    def __init__(self, stamps: Tensor) -> None:
        order = torch.argsort(stamps, stable=True)
        _, counts = torch.unique(stamps, return_counts=True)
        self._order = order
        self._counts = counts
        self._starts = torch.cumsum(counts, 0) - counts

    def draw(self) -> Tensor:
        """Return one row of each stamp, in the order of the stamps."""
        drawn = (torch.rand(len(self._counts)) * self._counts).long()
        return self._order[self._starts + drawn.clamp(max=self._counts - 1)]


def _loss(
    model: Retrieval, inputs: Mapping[str, Tensor], resembles: Tensor, captions: Tensor, settings: TrainSettings
) -> Tensor:
    """Return the contrastive loss of every pair of modalities, one after the other."""
    dropout = nn.functional.dropout
    pictures = model.pictures
    features = dropout(inputs["image"], settings.image_dropout)
    found = {
        "image": unit(pictures.head(features) + pictures.named(dropout(resembles, settings.dropout))),
        "audio": model.sounds.decide(dropout(inputs["audio"], settings.dropout)),
        "text": model.texts.decide(dropout(inputs["text"], settings.dropout)),
    }
    same = (captions[:, None] == captions[None, :]).to(torch.float32)
    answers = same / same.sum(dim=1, keepdim=True)
    pairs = [(found[one], found[other]) for one, other in combinations(MODALITIES, 2)]
    return torch.stack([_contrast(one, other, answers, settings.temperature) for one, other in pairs]).sum()


def _of_names(model: Retrieval, names: Tensor, settings: TrainSettings) -> Tensor:
    """Return the loss of some of ImageNet's classes and their names."""
    chosen = torch.randperm(CLASSES)[: settings.classes]
    mapped = unit(model.pictures.named.weight.T[chosen])
    told = model.texts.decide(nn.functional.dropout(names[chosen], settings.dropout))
    return _contrast(mapped, told, torch.eye(len(chosen)), settings.temperature)


def _contrast(one: Tensor, other: Tensor, answers: Tensor, temperature: float) -> Tensor:
    nearness = one @ other.T / temperature
    both = nn.functional.cross_entropy(nearness, answers) + nn.functional.cross_entropy(nearness.T, answers)
    return both / 2
