"""Train `intent`: every step encodes a batch once and fuses it twice, with everything and with a random subset.

Encoders, and the attention over all their tokens, begin as those of `dialogue`, which has heard the same voices and
seen the same rooms; a sentence that is in one split here is in no other split there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from edgefuse.bundle.spec import subset_name
from edgefuse.datasets.intent.items import IntentItems
from edgefuse.datasets.intent.requests import SLOTS
from edgefuse.datasets.sample import Sample
from edgefuse.errors import DataError
from edgefuse.models.dialogue import fitting
from edgefuse.models.dialogue.fitting import Features, Inputs, Progress
from edgefuse.models.fusion import FusionModel, masked
from edgefuse.models.reference.batches import Prepare, stacked, subset_rows


@dataclass(frozen=True)
class Settings(fitting.Settings):
    """How `intent` is trained; in each epoch, every request comes once."""

    learning_rate: float = 1.5e-3


@dataclass(frozen=True)
class Batch(Inputs):
    """Prepared samples.

    Attributes:
        targets: the class of each output, int64 [B, outputs].
    """

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
    targets = torch.tensor([[sample.target[slot] for slot in SLOTS] for sample in samples])
    return Batch(stacked(samples, prepare), targets)


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
    progress: Progress = lambda *_: None,
) -> None:
    """Train a model in place and leave it in evaluation mode; what encodes pictures knows the rooms, and stays so.

    Args:
        model: freshly built from a seed.
        samples: as many as there are epochs times requests.
        prepare: makes a sample's tensors.
        settings: how to train.
        progress: of the epochs.
    """
    entropy = nn.CrossEntropyLoss()

    def loss_of(features: Features, present: Tensor, batch: Batch) -> Tensor:
        logits = answered(model, features, present)
        targets = torch.cat([batch.targets, batch.targets])
        return torch.stack([entropy(one, targets[:, place]) for place, one in enumerate(logits)]).sum()

    fitting.fit(model, samples, partial(collate, prepare=prepare), loss_of, settings, progress, frozen=("image",))


@torch.inference_mode()
def scores_by_subset(model: FusionModel, batches: Sequence[Batch]) -> dict[str, Score]:
    """Return what is right for every admissible subset of the modalities; the model is put into evaluation mode."""
    model.eval()
    features = [{name: model.encode(name, batch.inputs) for name in model.encoders} for batch in batches]
    found: dict[str, Score] = {}
    for subset, row in zip(model.spec.subsets(), subset_rows(model.spec), strict=True):
        right = []
        for batch, encoded in zip(batches, features, strict=True):
            logits = answered(model, encoded, row.expand(len(batch.targets), -1))
            right.append(torch.stack([one.argmax(dim=1) for one in logits], dim=1) == batch.targets)
        same = torch.cat(right)
        outputs = dict(zip(SLOTS, same.double().mean(dim=0).tolist(), strict=True))
        found[subset_name(subset)] = Score(outputs, float(same.all(dim=1).double().mean()))
    return found
