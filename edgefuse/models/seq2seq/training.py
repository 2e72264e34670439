"""Train `seq2seq`, and the baselines that do not see or do not read, the same way every time.

First the encoder of frames learns to tell digits, by a head that is thrown away. Then it stays as it is, what it gives
is computed once for all clips, and the rest learns to answer: every step is given the right answer before its own
(teacher forcing). Both schedules are fixed (one cycle, arXiv:1708.07120), and the last weights are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from edgefuse.datasets.sequence import SequenceItems
from edgefuse.datasets.sequence.items import STEPS
from edgefuse.datasets.sequence.words import END
from edgefuse.models.decoder import decoded
from edgefuse.models.fusion import FusionModel
from edgefuse.models.reference import loop
from edgefuse.models.reference.batches import Prepare, stacked
from edgefuse.models.reference.loop import Step, decayed
from edgefuse.models.seq2seq.decoder import StepDecoder
from edgefuse.models.seq2seq.layers import WIDTH_FRAME, VideoEncoder
from edgefuse.models.seq2seq.model import OUTPUT

FILLING = -100
"""A target where there is none."""
_CHUNK = 100


@dataclass(frozen=True)
class TrainSettings:
    """How the model is trained.

    Attributes:
        clips: of the training split, each of which is seen in every epoch.
        frame_epochs: in which the encoder of frames learns digits.
        epochs: in which the rest learns to answer.
        batch: clips per step.
        frame_rate: the peak learning rate of the encoder of frames; it ends at a hundredth of it.
        learning_rate: that of the rest.
        warm_up: fraction of a schedule before the peak.
        weight_decay: of matrices.
        label_smoothing: probability mass spread over all answers.
        gradient_norm: gradients are clipped at this norm.
        threads: of torch; another number rounds differently.
        seed: of the initial weights and the order of clips.
    """

    clips: int = 6000
    frame_epochs: int = 2
    epochs: int = 12
    batch: int = 50
    frame_rate: float = 4e-3
    learning_rate: float = 4e-3
    warm_up: float = 0.2
    weight_decay: float = 0.02
    label_smoothing: float = 0.02
    gradient_norm: float = 1.0
    threads: int = 1
    seed: int = 0


@dataclass(frozen=True)
class Clips:
    """A split, encoded as far as it does not change any more.

    Attributes:
        seen: what the encoder of frames gives, float32 [N, frames, 96].
        ids: of the words, int32 [N, words].
        length: of clips and texts, int32 [N].
        targets: int64 [N, steps], filled with -100.
    """

    seen: Tensor
    ids: Tensor
    length: Tensor
    targets: Tensor

    def rows(self, chosen: Tensor) -> Clips:
        """Return some of them."""
        return Clips(self.seen[chosen], self.ids[chosen], self.length[chosen], self.targets[chosen])

    def without(self, ignored: str) -> Clips:
        """Return them with nothing seen, or with nothing read, for a baseline that ignores `video` or `text`."""
        if ignored == "video":
            return Clips(torch.zeros_like(self.seen), self.ids, self.length, self.targets)
        return Clips(self.seen, torch.zeros_like(self.ids), self.length, self.targets) if ignored == "text" else self


@dataclass(frozen=True)
class Point:
    """One point of a training curve.

    Attributes:
        epoch: counted from 1.
        loss: its mean.
        accuracy: of tokens on the validation split, with the right answers before.
        seconds: since training began.
    """

    epoch: int
    loss: float
    accuracy: float
    seconds: float


@dataclass(frozen=True)
class Answers:
    """What a model answers.

    Attributes:
        accuracy: of tokens, end tokens included, with the right answers before.
        ids: its own answers, without the end token, one list per clip.
        wanted: the right ones.
    """

    accuracy: float
    ids: list[list[int]]
    wanted: list[list[int]]


def fit_frames(encoder: VideoEncoder, items: SequenceItems, settings: TrainSettings) -> float:
    """Train the encoder of frames in place to tell digits; return the accuracy over the last tenth of the training.

    Args:
        encoder: freshly built after torch was seeded.
        items: whose frames it sees.
        settings: how to train.
    """
    head = nn.Linear(WIDTH_FRAME, 10)
    both = nn.ModuleList([encoder, head])
    steps = settings.frame_epochs * len(items) // settings.batch
    step_of = _step(both, settings.frame_rate, steps, settings)
    encoder.train()
    right: list[float] = []
    for step in range(steps):
        first = step * settings.batch % len(items)
        chosen = range(first, first + settings.batch)
        frames = torch.from_numpy(np.concatenate([items.clip(index) for index in chosen]))
        digits = torch.tensor([digit for index in chosen for digit in items.digits(index)])
        logits = head(encoder.frame(encoder.frontend(frames.unsqueeze(0)).squeeze(0).unsqueeze(1)))
        step_of(nn.functional.cross_entropy(logits, digits, label_smoothing=settings.label_smoothing))
        right.append(float((logits.argmax(dim=1) == digits).to(torch.float32).mean()))
    encoder.eval()
    last = right[-max(1, len(right) // 10) :]
    return sum(last) / len(last)


@torch.inference_mode()
def encoded(model: FusionModel, items: SequenceItems, prepare: Prepare) -> Clips:
    """Return clips as the encoder of frames gives them.

    Args:
        model: in evaluation mode.
        items: of a split.
        prepare: makes a sample's tensors, a batch of one, with the code that a device runs.
    """
    parts = [_chunk(model, items, range(first, min(first + _CHUNK, len(items))), prepare) for first in _firsts(items)]
    return Clips(
        torch.cat([part.seen for part in parts]),
        torch.cat([part.ids for part in parts]),
        torch.cat([part.length for part in parts]),
        torch.cat([part.targets for part in parts]),
    )


def _firsts(items: SequenceItems) -> range:
    return range(0, len(items), _CHUNK)


def _chunk(model: FusionModel, items: SequenceItems, chosen: Iterable[int], prepare: Prepare) -> Clips:
    samples = [items[index] for index in chosen]
    inputs = stacked(samples, prepare)
    targets = torch.full((len(samples), STEPS), FILLING, dtype=torch.int64)
    for row, sample in zip(targets, samples, strict=True):
        row[: len(sample.target)] = torch.tensor(sample.target)
    return Clips(model.encode("video", inputs), inputs["text.ids"], inputs["text.length"], targets)


def fit(
    model: FusionModel,
    clips: Clips,
    validation: Clips,
    settings: TrainSettings,
    progress: Callable[[Point], None] | None = None,
) -> list[Point]:
    """Train what answers in place, leave the model in evaluation mode, and return the curve.

    Args:
        model: whose encoder of frames made the clips.
        clips: to learn from.
        validation: on which every epoch is judged.
        settings: how to train.
        progress: called with every point of the curve.
    """
    per_epoch = len(clips.ids) // settings.batch
    trained = nn.ModuleList([model.encoders["text"], _decoder(model)])

    def losses(epoch: int) -> Iterator[Tensor]:
        trained.train()
        order = torch.from_numpy(np.random.default_rng([settings.seed, epoch]).permutation(len(clips.ids)))
        for chosen in order[: per_epoch * settings.batch].reshape(per_epoch, settings.batch):
            part = clips.rows(chosen)
            logits = answer(model, part, part.targets.clamp(min=0))
            yield nn.functional.cross_entropy(
                logits.flatten(0, 1),
                part.targets.flatten(),
                label_smoothing=settings.label_smoothing,
                ignore_index=FILLING,
            )

    def judge(epoch: int, loss: float, seconds: float) -> Point:
        return Point(epoch, loss, answered(model, validation).accuracy, seconds)

    step = _step(trained, settings.learning_rate, settings.epochs * per_epoch, settings)
    curve = loop.fit(range(1, settings.epochs + 1), losses, step, judge, progress)
    model.eval()
    return curve


def answer(model: FusionModel, clips: Clips, tokens: Tensor | None = None) -> Tensor:
    """Return what `FusionModel` does, the logits [N, steps, tokens], for clips that are encoded.

    Args:
        model: to ask.
        clips: to answer.
        tokens: the right answers, which the steps are given; if None, each is given the likeliest of the one before.
    """
    read = model.encoders["text"](clips.ids, clips.length)
    present = torch.ones(len(clips.ids), len(model.spec.modalities))
    fused = model.fusion({"video": clips.seen, "text": read}, present)
    return decoded(_decoder(model), OUTPUT, (fused,), tokens)


@torch.inference_mode()
def answered(model: FusionModel, clips: Clips) -> Answers:
    """Return how well a model, which is put into evaluation mode, answers clips."""
    model.eval()
    told = clips.targets != FILLING
    found = answer(model, clips, clips.targets.clamp(min=0)).argmax(dim=2)
    right = float((found[told] == clips.targets[told]).to(torch.float64).mean())
    own = answer(model, clips).argmax(dim=2)
    return Answers(right, list(_texts(own.tolist())), list(_texts(clips.targets.tolist())))


def _texts(rows: Sequence[list[int]]) -> Iterator[list[int]]:
    """Yield rows of ids as far as the end token."""
    for ids in rows:
        yield ids[: ids.index(END)] if END in ids else ids


def _decoder(model: FusionModel) -> StepDecoder:
    assert isinstance(model.decoder, StepDecoder)
    return model.decoder


def _step(module: nn.Module, rate: float, steps: int, settings: TrainSettings) -> Step:
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        torch.optim.AdamW(decayed(module, settings.weight_decay)),
        max_lr=rate,
        total_steps=steps,
        pct_start=settings.warm_up,
        div_factor=10,
        final_div_factor=10,
    )
    return Step(list(module.parameters()), schedule, settings.gradient_norm)
