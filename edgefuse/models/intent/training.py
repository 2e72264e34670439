"""Train `intent`: every step encodes a batch once and fuses it twice, with everything and with a random subset.

Encoders, and the attention over all their tokens, begin as those of `dialogue`, which has heard the same voices and
seen the same rooms; a sentence that is in one split here is in no other split there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from edgefuse.bundle.spec import subset_name
from edgefuse.datasets.intent.items import IntentItems
from edgefuse.datasets.intent.requests import SLOTS
from edgefuse.datasets.sample import Sample
from edgefuse.errors import DataError
from edgefuse.models.digits.training import Prepare
from edgefuse.models.fusion import FusionModel, masked


@dataclass(frozen=True)
class Settings:
    """How `intent` is trained.

    Attributes:
        epochs: length of the one-cycle schedule; in each, every request comes once.
        batch: samples in a step.
        learning_rate: the highest.
        weight_decay: of AdamW.
        seed: of weights, order and subsets.
    """

    epochs: int = 6
    batch: int = 32
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.05
    seed: int = 0


@dataclass(frozen=True)
class Batch:
    """Prepared samples.

    Attributes:
        inputs: tensors with the batch first, as `FusionModel.encode` takes them.
        targets: the class of each output, int64 [B, outputs].
    """

    inputs: Mapping[str, Tensor]
    targets: Tensor


@dataclass(frozen=True)
class Score:
    """What is right, with a subset of the modalities.

    Attributes:
        outputs: the accuracy of each output, by its name.
        whole: the fraction of requests of which all outputs are right.
    """

    outputs: Mapping[str, float]
    whole: float


def begin(model: FusionModel, dialogue: Path) -> None:
    """Give a model, freshly built, what the committed weights of `dialogue` know of voices, words and rooms.

    Args:
        model: of this architecture, in which encoders and attention are those of `dialogue`.
        dialogue: its weights, a safetensors file.

    Raises:
        DataError: the file is missing or holds the weights of another model.
    """
    if not dialogue.is_file():
        raise DataError("the weights that 'intent' begins with are missing", got=f"no file '{dialogue}'")
    known = load_file(dialogue)
    names = {"encoders.": "encoders.", "fusion.": "fusion.memory."}
    taken = {
        new + name.removeprefix(old): known[name]
        for old, new in names.items()
        for name in known
        if name.startswith(old)
    }
    own = ("fusion.questions", "fusion.block.", "fusion.norm.", "fusion.heads.")
    rest = {name: value for name, value in model.state_dict().items() if name.startswith(own)}
    try:
        model.load_state_dict(rest | taken)
    except RuntimeError as error:
        raise DataError(f"'{dialogue.name}' does not hold the weights of 'dialogue'", got=str(error)) from error


def collate(samples: Sequence[Sample], prepare: Prepare) -> Batch:
    """Prepare samples and stack them; `prepare` gives arrays with a batch of one first."""
    prepared = [prepare(sample) for sample in samples]
    inputs = {name: torch.from_numpy(np.concatenate([item[name] for item in prepared])) for name in prepared[0]}
    return Batch(inputs, torch.tensor([[sample.target[slot] for slot in SLOTS] for sample in samples]))


def answered(model: FusionModel, features: Mapping[str, Tensor], present: Tensor) -> tuple[Tensor, ...]:
    """Return the logits of each output, float32 [B, classes].

    Args:
        model: the whole.
        features: per modality, of all samples.
        present: float32 [B, modalities].
    """
    kept = {name: masked(feature, present[:, column]) for column, (name, feature) in enumerate(features.items())}
    logits: tuple[Tensor, ...] = model.fusion(kept, present)
    return logits


def fit(
    model: FusionModel,
    samples: IntentItems,
    prepare: Prepare,
    settings: Settings,
    progress: Callable[[int, float, float], None] = lambda *_: None,
) -> None:
    """Train a model in place and leave it in evaluation mode.

    Args:
        model: freshly built from a seed.
        samples: as many as there are epochs times requests.
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
    loss_of, begun = nn.CrossEntropyLoss(), time.monotonic()
    for epoch in range(settings.epochs):
        model.train()
        model.encoders["image"].eval()
        losses = []
        for batch, partly in _batches(model, samples, epoch, per_epoch, prepare, settings):
            features = {name: _encoded(model, name, batch.inputs) for name in model.encoders}
            twice = {name: torch.cat([feature, feature]) for name, feature in features.items()}
            logits = answered(model, twice, torch.cat([torch.ones_like(partly), partly]))
            targets = torch.cat([batch.targets, batch.targets])
            loss = torch.stack([loss_of(one, targets[:, place]) for place, one in enumerate(logits)]).sum()
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        progress(epoch + 1, sum(losses) / len(losses), time.monotonic() - begun)
    model.eval()


def _encoded(model: FusionModel, name: str, inputs: Mapping[str, Tensor]) -> Tensor:
    """Encode a modality; what encodes pictures knows the rooms, and stays as it is."""
    with torch.set_grad_enabled(name != "image"):
        return model.encode(name, inputs)


def _batches(
    model: FusionModel, samples: IntentItems, epoch: int, per_epoch: int, prepare: Prepare, settings: Settings
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
    features = [{name: model.encode(name, batch.inputs) for name in model.encoders} for batch in batches]
    found: dict[str, Score] = {}
    for subset, row in zip(model.spec.subsets(), _rows(model), strict=True):
        right = []
        for batch, encoded in zip(batches, features, strict=True):
            logits = answered(model, encoded, row.expand(len(batch.targets), -1))
            right.append(torch.stack([one.argmax(dim=1) for one in logits], dim=1) == batch.targets)
        same = torch.cat(right)
        outputs = dict(zip(SLOTS, same.double().mean(dim=0).tolist(), strict=True))
        found[subset_name(subset)] = Score(outputs, float(same.all(dim=1).double().mean()))
    return found
