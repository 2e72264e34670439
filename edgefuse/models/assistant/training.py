"""Train the heads and the fusion of `assistant` on the features of its frozen encoders.

The pretrained parts run once over a few augmented passes of the training data, and what they give is kept. Training
then mixes the views of a stamp freely. Modality dropout is exhaustive: every step fuses a batch under every subset of
the modalities. Two losses: smoothed cross-entropy of the category, and a contrastive one (InfoNCE, arXiv:1807.03748,
both ways as in CLIP, arXiv:2103.00020) that brings the embeddings of each pair of modalities of a stamp together; with
several views of a stamp in a batch, all of them are right answers (arXiv:2004.11362).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from torch import Tensor, nn

from edgefuse.bundle.spec import subset_name
from edgefuse.datasets.stamps import StampItems
from edgefuse.models.assistant.fusion import MODALITIES
from edgefuse.models.assistant.matching import recall
from edgefuse.models.fusion import FusionModel
from edgefuse.models.reference import loop
from edgefuse.models.reference.batches import Preprocess, stacked, subset_rows
from edgefuse.models.reference.loop import Step


@dataclass(frozen=True)
class TrainSettings:
    """How the heads and the fusion are trained.

    Attributes:
        turns: augmented passes over the training recordings that the encoders see.
        epochs: passes over what they gave, in a one-cycle schedule (arXiv:1708.07120).
        batch: items per step.
        learning_rate: the peak; it ends at a hundredth of it.
        weight_decay: of all trained weights.
        label_smoothing: probability mass spread over all categories.
        feature_dropout: probability of each number of an embedding to be zeroed.
        fusion_dropout: the same within the fusion.
        matching: weight of the contrastive loss.
        temperature: by which similarities are divided in it.
        gradient_norm: gradients are clipped at this norm.
        threads: of torch; another number rounds differently.
        seed: of the initial weights and the order of items.
    """

    turns: int = 3
    epochs: int = 14
    batch: int = 256
    learning_rate: float = 1e-3
    weight_decay: float = 0.3
    label_smoothing: float = 0.2
    feature_dropout: float = 0.6
    fusion_dropout: float = 0.3
    matching: float = 1.0
    temperature: float = 0.07
    gradient_norm: float = 1.0
    threads: int = 1
    seed: int = 0


@dataclass(frozen=True)
class Embeddings:
    """The outputs of the pretrained encoders for the items of a split, one row per item.

    Attributes:
        inputs: per modality float32: image [N, 1280], audio [N, 96, 16], text [N, 384].
        stamps: int64 [N], which stamp an item is of.
        categories: int64 [N].
    """

    inputs: Mapping[str, Tensor]
    stamps: Tensor
    categories: Tensor

    def rows(self, index: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return chosen rows of each modality."""
        return {name: self.inputs[name][index[name]] for name in MODALITIES}


@dataclass(frozen=True)
class Epoch:
    """One point of the training curve.

    Attributes:
        epoch: counted from 1.
        loss: mean training loss.
        accuracy: of the category on the validation data, by subset.
        mean_accuracy: the mean of `accuracy`.
        recall: of spoken name to picture on the validation data, at 1 and 5.
        seconds: since training began.
    """

    epoch: int
    loss: float
    accuracy: Mapping[str, float]
    mean_accuracy: float
    recall: Mapping[str, float]
    seconds: float


@torch.inference_mode()
def embed(model: FusionModel, items: StampItems, indices: Sequence[int] | None = None, batch: int = 32) -> Embeddings:
    """Run the frontends and the pretrained encoders over a split, or over some of its items.

    A text that comes again is not encoded again.

    Args:
        model: whose encoders run.
        items: of a split.
        indices: of some items; all if None.
        batch: items per call.
    """
    chosen = range(len(items)) if indices is None else indices
    prepare = Preprocess(model)
    texts: dict[str, Tensor] = {}
    parts: dict[str, list[Tensor]] = {name: [] for name in MODALITIES}
    for start in range(0, len(chosen), batch):
        samples = [items[index] for index in chosen[start : start + batch]]
        tensors = stacked(samples, prepare)
        for name in ("image", "audio"):
            encoder = model.encoders[name]
            tensor = next(value for key, value in tensors.items() if key.startswith(f"{name}."))
            parts[name].append(encoder.embed(encoder.frontend(tensor)))  # type: ignore[operator]
        for row, sample in enumerate(samples):
            text = str(sample.inputs["text"])
            if text not in texts:
                ids, length = tensors["text.ids"][row : row + 1], tensors["text.length"][row : row + 1]
                texts[text] = model.encoders["text"].embed(ids, length)  # type: ignore[operator]
            parts["text"].append(texts[text])
    return Embeddings(
        inputs={name: torch.cat(part) for name, part in parts.items()},
        stamps=torch.tensor([items.stamp_index(index) for index in chosen]),
        categories=torch.tensor([items.stamp(index).category for index in chosen]),
    )


def fuse_subsets(model: FusionModel, inputs: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Fuse a batch of embeddings under every subset; return logits [B, 6] and matching points [B, 128] by subset."""
    features = {name: model.encoders[name].decide(inputs[name]) for name in MODALITIES}  # type: ignore[operator]
    count = len(inputs[MODALITIES[0]])
    subsets = model.spec.subsets()
    present = subset_rows(model.spec).repeat_interleave(count, dim=0)
    repeated = {name: feature.repeat(len(subsets), 1) for name, feature in features.items()}
    logits, points = model.fusion(repeated, present)
    pairs = zip(logits.split(count), points.split(count), strict=True)
    return {subset_name(subset): pair for subset, pair in zip(subsets, pairs, strict=True)}


def fit(
    model: FusionModel,
    data: Embeddings,
    validation: Embeddings,
    settings: TrainSettings,
    progress: Callable[[Epoch], None] | None = None,
) -> list[Epoch]:
    """Train heads and fusion in place and leave the model in evaluation mode, as the last epoch left it.

    Args:
        model: as `build` makes it, with the settings' dropout in the fusion; its backbones stay as they are.
        data: training data; a stamp's rows are views of it.
        validation: for the curve; it decides nothing here, the schedule is fixed.
        settings: how to train.
        progress: called after every epoch.

    Returns:
        The curve.
    """
    for name in MODALITIES:
        model.encoders[name].get_submodule("backbone").requires_grad_(False)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, weight_decay=settings.weight_decay)
    steps = settings.epochs * (len(data.stamps) // settings.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=settings.learning_rate, total_steps=steps, pct_start=0.2, div_factor=10, final_div_factor=10
    )

    def losses(epoch: int) -> Iterator[Tensor]:
        model.train()
        for inputs, stamps, categories in _batches(data, epoch, settings):
            yield _loss(model, inputs, stamps, categories, settings)

    def judge(epoch: int, loss: float, seconds: float) -> Epoch:
        accuracy = accuracy_by_subset(model, validation)
        mean = sum(accuracy.values()) / len(accuracy)
        return Epoch(epoch, loss, accuracy, mean, matching(model, validation)["audio"], seconds)

    step = Step(trained, schedule, settings.gradient_norm)
    return loop.fit(range(1, settings.epochs + 1), losses, step, judge, progress)


@torch.inference_mode()
def accuracy_by_subset(model: FusionModel, data: Embeddings) -> dict[str, float]:
    """Return the fraction of right categories for every subset of the modalities."""
    model.eval()
    fused = fuse_subsets(model, data.inputs)
    return {
        name: float((logits.argmax(dim=1) == data.categories).double().mean()) for name, (logits, _) in fused.items()
    }


@torch.inference_mode()
def matching(model: FusionModel, data: Embeddings) -> dict[str, dict[str, float]]:
    """Return how well a name finds its picture among one picture of every stamp: by query, recall at 1 and 5."""
    model.eval()
    fused = fuse_subsets(model, data.inputs)
    stamps = data.stamps.numpy()
    _, first = np.unique(stamps, return_index=True)
    gallery = fused["image"][1].numpy()[first]
    queries = ("audio", "text", "audio+text")
    return {name: recall(fused[name][1].numpy(), stamps, gallery, stamps[first]) for name in queries}


def _batches(
    data: Embeddings, epoch: int, settings: TrainSettings
) -> Iterator[tuple[dict[str, Tensor], Tensor, Tensor]]:
    """Give an epoch's batches: sound in random order, each with a random view of its stamp's picture and text."""
    rng = np.random.default_rng([settings.seed, epoch])
    stamps = data.stamps.numpy()
    by_stamp = np.argsort(stamps, kind="stable")
    starts = np.searchsorted(stamps[by_stamp], stamps)
    counts = np.searchsorted(stamps[by_stamp], stamps, side="right") - starts
    order = rng.permutation(len(stamps))
    for start in range(0, len(order) - settings.batch + 1, settings.batch):
        chosen = order[start : start + settings.batch]
        views = {"audio": torch.from_numpy(chosen)}
        for name in ("image", "text"):
            drawn = starts[chosen] + (rng.random(len(chosen)) * counts[chosen]).astype(np.int64)
            views[name] = torch.from_numpy(by_stamp[drawn])
        yield data.rows(views), data.stamps[chosen], data.categories[chosen]


def _loss(
    model: FusionModel, inputs: Mapping[str, Tensor], stamps: Tensor, categories: Tensor, settings: TrainSettings
) -> Tensor:
    dropped = {name: nn.functional.dropout(value, settings.feature_dropout) for name, value in inputs.items()}
    fused = fuse_subsets(model, dropped)
    logits = torch.cat([logits for logits, _ in fused.values()])
    category = nn.functional.cross_entropy(
        logits, categories.repeat(len(fused)), label_smoothing=settings.label_smoothing
    )
    same = (stamps[:, None] == stamps[None, :]).to(torch.float32)
    answers = same / same.sum(dim=1, keepdim=True)
    pairs = [fused[one][1] @ fused[other][1].T / settings.temperature for one, other in combinations(MODALITIES, 2)]
    contrast = [nn.functional.cross_entropy(s, answers) + nn.functional.cross_entropy(s.T, answers) for s in pairs]
    return category + settings.matching * torch.stack(contrast).mean() / 2
