"""Train the heads, the fusion and the last layer of the text encoder on what lies below them.

The rest of the pretrained encoders runs once over the data. Every step trains the text alone on a batch of all
sentences, and sound alone and both together on those of the batch that are said, with a smoothed cross-entropy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from edgefuse.bundle.spec import subset_name
from edgefuse.datasets.sentiment import LABELS, SentimentItems
from edgefuse.models.assistant.audio import AudioEncoder
from edgefuse.models.fusion import FusionModel
from edgefuse.models.reference import loop
from edgefuse.models.reference.loop import Step
from edgefuse.models.sentiment.fusion import MODALITIES
from edgefuse.models.sentiment.model import is_trained
from edgefuse.models.sentiment.text import TextEncoder
from edgefuse.runtime.preprocess import Preprocessor

_NEIGHBOURS = 16  # batches whose sentences are dealt out by length, so that little is padded


@dataclass(frozen=True)
class TrainSettings:
    """How the model is trained.

    Attributes:
        epochs: passes over the training sentences, in a one-cycle schedule (arXiv:1708.07120).
        batch: sentences per step.
        learning_rate: the peak for heads and fusion; it ends at a hundredth of it.
        layer_learning_rate: the same for the pretrained layer.
        weight_decay: of all trained weights.
        label_smoothing: probability mass spread over both labels.
        audio_dropout: probability of each number of an embedding of sound to be zeroed; few sentences are said.
        text_dropout: the same of the states of a text.
        fusion_dropout: the same within the fusion.
        gradient_norm: gradients are clipped at this norm.
        threads: of torch; another number rounds differently.
        seed: of the initial weights and the order of sentences.
    """

    epochs: int = 4
    batch: int = 32
    learning_rate: float = 1e-3
    layer_learning_rate: float = 1e-4
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    audio_dropout: float = 0.8
    text_dropout: float = 0.1
    fusion_dropout: float = 0.2
    gradient_norm: float = 1.0
    threads: int = 1
    seed: int = 0


@dataclass(frozen=True)
class Embeddings:
    """What the pretrained encoders give for the items of a split, below what is trained.

    Attributes:
        audio: float32 [said, 96, steps], of the first items.
        states: float16 [items, 48, 384], which enter the last layer of the text encoder.
        lengths: int32 [items], of the texts, in tokens.
        labels: int64 [items].
    """

    audio: Tensor
    states: Tensor
    lengths: Tensor
    labels: Tensor

    def rows(self, rows: Sequence[int]) -> Embeddings:
        """Return those of some items, of which those that are said must come first."""
        said = [row for row in rows if row < len(self.audio)]
        chosen = list(rows)
        return Embeddings(self.audio[said], self.states[chosen], self.lengths[chosen], self.labels[chosen])


@dataclass(frozen=True)
class Epoch:
    """One point of the training curve.

    Attributes:
        epoch: counted from 1.
        loss: mean training loss.
        accuracy: on the validation data, by subset.
        seconds: since training began.
    """

    epoch: int
    loss: float
    accuracy: Mapping[str, float]
    seconds: float


@torch.inference_mode()
def embed(model: FusionModel, items: SentimentItems, count: int | None = None, batch: int = 32) -> Embeddings:
    """Run the frontend and the pretrained encoders over a split.

    Args:
        model: whose encoders run.
        items: of a split.
        count: how many of them, the first; all if None.
        batch: items per call.
    """
    chosen = items.sentences[:count]
    encoder = model.encoders["audio"]
    assert isinstance(encoder, AudioEncoder)
    read = Preprocessor(model.spec.modality("audio"), model.assets.__getitem__)
    said = [
        np.concatenate([read(items.audio(index))["audio.samples"] for index in range(start, end)])
        for start, end in _runs(min(items.spoken, len(chosen)), batch)
    ]
    heard = [encoder.embed(encoder.frontend(torch.from_numpy(samples))) for samples in said]
    states, lengths = _embed_texts(model, [sentence.text for sentence in chosen], batch)
    return Embeddings(
        audio=torch.cat(heard),
        states=states,
        lengths=lengths,
        labels=torch.tensor([sentence.label for sentence in chosen]),
    )


def fit(
    model: FusionModel,
    data: Embeddings,
    validation: Embeddings,
    settings: TrainSettings,
    progress: Callable[[Epoch], None] | None = None,
) -> list[Epoch]:
    """Train in place and leave the model in evaluation mode, as the last epoch left it.

    Args:
        model: as `build` makes it, with the settings' dropout in the fusion.
        data: training data.
        validation: for the curve; it decides nothing here, the schedule is fixed.
        settings: how to train.
        progress: called after every epoch.

    Returns:
        The curve.
    """
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(is_trained(name))
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    layer = [parameter for name, parameter in trained.items() if ".backbone." in name]
    others = [parameter for name, parameter in trained.items() if ".backbone." not in name]
    rates = [settings.layer_learning_rate, settings.learning_rate]
    optimizer = torch.optim.AdamW([{"params": layer}, {"params": others}], weight_decay=settings.weight_decay)
    steps = settings.epochs * (len(data.labels) // settings.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=rates, total_steps=steps, pct_start=0.2, div_factor=10, final_div_factor=10
    )

    def losses(epoch: int) -> Iterator[Tensor]:
        model.train()
        for rows in _batches(data, epoch, settings):
            yield _loss(model, data, rows, settings)

    def judge(epoch: int, loss: float, seconds: float) -> Epoch:
        accuracy = {name: found["accuracy"] for name, found in scores_by_subset(model, validation).items()}
        return Epoch(epoch, loss, accuracy, seconds)

    step = Step([*layer, *others], schedule, settings.gradient_norm)
    return loop.fit(range(1, settings.epochs + 1), losses, step, judge, progress)


@torch.inference_mode()
def scores_by_subset(model: FusionModel, data: Embeddings, batch: int = 64) -> dict[str, dict[str, float]]:
    """Return `scores` for every subset of the modalities; all items must be said.

    Args:
        model: to judge.
        data: of a split.
        batch: items per call.
    """
    model.eval()
    found: dict[str, list[Tensor]] = {}
    for rows in torch.split(torch.arange(len(data.labels)), batch):
        features = {
            "audio": _heard(model, data.audio[rows]),
            "text": _read(model, data.states[rows], data.lengths[rows]),
        }
        for subset in model.spec.subsets():
            found.setdefault(subset_name(subset), []).append(_logits(model, features, subset).argmax(dim=1))
    return {name: scores(data.labels.numpy(), torch.cat(parts).numpy()) for name, parts in found.items()}


def scores(labels: npt.NDArray[np.int64], found: npt.NDArray[np.int64]) -> dict[str, float]:
    """Return accuracy, the precision, recall and F1 of each label, and the mean of the latter (macro F1).

    Args:
        labels: the right ones, int64 [items].
        found: a model's, int64 [items].
    """
    result = {"accuracy": float((labels == found).mean())}
    for index, name in enumerate(LABELS):
        right = float(((found == index) & (labels == index)).sum())
        precision = right / max(int((found == index).sum()), 1)
        recall = right / max(int((labels == index).sum()), 1)
        result |= {f"precision_{name}": precision, f"recall_{name}": recall}
        result[f"f1_{name}"] = 2 * precision * recall / max(precision + recall, 1e-9)
    return {**result, "macro_f1": sum(result[f"f1_{name}"] for name in LABELS) / len(LABELS)}


def _runs(count: int, size: int) -> list[tuple[int, int]]:
    return [(start, min(start + size, count)) for start in range(0, count, size)]


def _embed_texts(model: FusionModel, texts: Sequence[str], batch: int) -> tuple[Tensor, Tensor]:
    """Return the states below the last layer, float16 [texts, 48, 384], and the texts' lengths."""
    encoder = model.encoders["text"]
    assert isinstance(encoder, TextEncoder)
    read = Preprocessor(model.spec.modality("text"), model.assets.__getitem__)
    tensors = [read(text) for text in texts]
    ids = torch.from_numpy(np.concatenate([one["text.ids"] for one in tensors]))
    lengths = torch.from_numpy(np.concatenate([one["text.length"] for one in tensors]))
    states = torch.zeros(*ids.shape, encoder.head.in_features, dtype=torch.float16)
    for rows in torch.split(torch.argsort(lengths, stable=True), batch):
        steps = int(lengths[rows].max())
        states[rows, :steps] = encoder.base(ids[rows, :steps], lengths[rows]).to(torch.float16)
    return states, lengths


def _batches(data: Embeddings, epoch: int, settings: TrainSettings) -> list[Tensor]:
    """Return the rows of an epoch's batches, in random order; sentences of a batch are of like length."""
    rng = np.random.default_rng([settings.seed, epoch])
    order = torch.from_numpy(rng.permutation(len(data.labels)))
    batches: list[Tensor] = []
    for rows in torch.split(order, _NEIGHBOURS * settings.batch):
        by_length = rows[torch.argsort(data.lengths[rows], stable=True)]
        batches += [batch for batch in torch.split(by_length, settings.batch) if len(batch) == settings.batch]
    return [batches[place] for place in rng.permutation(len(batches))]


def _loss(model: FusionModel, data: Embeddings, rows: Tensor, settings: TrainSettings) -> Tensor:
    said = torch.nonzero(rows < len(data.audio)).squeeze(1)
    states = nn.functional.dropout(data.states[rows].to(torch.float32), settings.text_dropout)
    text = _read(model, states, data.lengths[rows])
    answers: list[tuple[Tensor, Tensor]] = [(_logits(model, {"text": text}, ("text",)), data.labels[rows])]
    if len(said) > 1:  # a batch norm needs two
        audio = _heard(model, nn.functional.dropout(data.audio[rows[said]], settings.audio_dropout))
        features = {"audio": audio, "text": text[said]}
        for subset in (("audio", "text"), ("audio",)):
            answers.append((_logits(model, features, subset), data.labels[rows[said]]))
    losses = [nn.functional.cross_entropy(*pair, label_smoothing=settings.label_smoothing) for pair in answers]
    return torch.stack(losses).mean()


def _heard(model: FusionModel, embedding: Tensor) -> Tensor:
    encoder = model.encoders["audio"]
    assert isinstance(encoder, AudioEncoder)
    return encoder.decide(embedding)


def _read(model: FusionModel, states: Tensor, lengths: Tensor) -> Tensor:
    encoder = model.encoders["text"]
    assert isinstance(encoder, TextEncoder)
    return encoder.top(states[:, : int(lengths.max())].to(torch.float32), lengths)


def _logits(model: FusionModel, features: Mapping[str, Tensor], subset: Sequence[str]) -> Tensor:
    """Fuse the features of a subset; return logits [B, labels]."""
    present = torch.tensor([[float(name in subset) for name in MODALITIES]])
    like = features[subset[0]]
    fused = {name: features[name] if name in subset else torch.zeros_like(like) for name in MODALITIES}
    logits: Tensor = model.fusion(fused, present.expand(len(like), -1))
    return logits
