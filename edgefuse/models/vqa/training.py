"""Train `vqa` from scratch, in two parts, since answers alone teach a CNN slowly what it sees.

First the image encoder learns, with a head that is dropped afterwards, to tell what is in which place of a scene. Then
it runs once over scenes, and the question encoder and the fusion learn to answer from its maps; every epoch has other
questions about each scene. Some lack the picture, some pictures the question, so that the model answers either alone
as well as that can be done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from edgefuse.bundle.spec import subset_name
from edgefuse.datasets.scenes import Scenes
from edgefuse.datasets.scenes.composition import PLACES, Scene
from edgefuse.datasets.scenes.names import COLOURS, KINDS
from edgefuse.datasets.scenes.questions import Question
from edgefuse.models.fusion import FusionModel
from edgefuse.models.reference import loop
from edgefuse.models.reference.loop import Step
from edgefuse.models.vqa.encoders import CHANNELS
from edgefuse.models.vqa.fusion import MODALITIES
from edgefuse.runtime.preprocess import Preprocessor


@dataclass(frozen=True)
class TrainSettings:
    """How the model is trained.

    Attributes:
        encoder_scenes: that the image encoder sees, each once, in a one-cycle schedule (arXiv:1708.07120).
        encoder_batch: scenes per step.
        scenes: that are asked about.
        epochs: passes over them, in a one-cycle schedule.
        batch: scenes per step.
        questions: about each scene in a step.
        absent: the share of questions without the picture, and of pictures without the question.
        learning_rate: the peak of both schedules; they end at a thousandth of it.
        weight_decay: of all weights.
        dropout: in the head of the fusion.
        gradient_norm: gradients are clipped at this norm.
        threads: of torch; another number rounds differently.
        seed: of the initial weights, the order of scenes, and what is absent.
    """

    encoder_scenes: int = 16_000
    encoder_batch: int = 32
    scenes: int = 8000
    epochs: int = 10
    batch: int = 64
    questions: int = 4
    absent: float = 0.05
    learning_rate: float = 3e-3
    weight_decay: float = 0.01
    dropout: float = 0.1
    gradient_norm: float = 2.0
    threads: int = 1
    seed: int = 0


@dataclass(frozen=True)
class Epoch:
    """One point of the training curve.

    Attributes:
        epoch: counted from 1; 0 is that of the image encoder.
        loss: mean training loss.
        accuracy: on the validation data, by subset; of `kind` and `colour` in each place for the image encoder.
        seconds: since this part of the training began.
    """

    epoch: int
    loss: float
    accuracy: Mapping[str, float]
    seconds: float


@dataclass(frozen=True)
class Asked:
    """Questions as tensors, those of one scene in a row.

    Attributes:
        ids: int32 [N, max_length].
        lengths: int32 [N].
        targets: int64 [N].
        about: a key of `WORDINGS` for each.
    """

    ids: Tensor
    lengths: Tensor
    targets: Tensor
    about: tuple[str, ...]


class Reader:
    """Makes tensors of questions, with the code that a device runs."""

    def __init__(self, model: FusionModel) -> None:
        self._read = Preprocessor(model.spec.modality("question"), model.assets.__getitem__)
        self._known: dict[str, tuple[Tensor, Tensor]] = {}

    def __call__(self, asked: Sequence[Question]) -> Asked:
        """Return them as tensors."""
        ids, lengths = zip(*(self._tensors(question.text) for question in asked), strict=True)
        targets = torch.tensor([question.target for question in asked])
        return Asked(torch.cat(ids), torch.cat(lengths), targets, tuple(question.about for question in asked))

    def _tensors(self, text: str) -> tuple[Tensor, Tensor]:
        if text not in self._known:
            read = self._read(text)
            self._known[text] = torch.from_numpy(read["question.ids"]), torch.from_numpy(read["question.length"])
        return self._known[text]


class PlacesHead(nn.Module):
    """Tell from the map of the image encoder what is in which place; it is used in training alone."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(3)
        self.layer = nn.Conv2d(CHANNELS, len(KINDS) + 1 + len(COLOURS) + 1, 1)

    def forward(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits [B, 18, 4] of kinds and [B, 9, 4] of colours for a map [B, 64, 6, 6]; the last is nothing."""
        kinds, colours = self.layer(self.pool(seen)).flatten(2).split([len(KINDS) + 1, len(COLOURS) + 1], dim=1)
        return kinds, colours


def shown(scene: Scene) -> tuple[list[int], list[int]]:
    """Return the number of the kind and of the colour in each place, that above all others for nothing."""
    there = {(thing.row, thing.column): thing for thing in scene.things}
    things = [there.get(place) for place in PLACES]
    return (
        [len(KINDS) if thing is None else KINDS.index(thing.kind) for thing in things],
        [len(COLOURS) if thing is None else list(COLOURS).index(thing.colour) for thing in things],
    )


def fit_encoder(model: FusionModel, scenes: Scenes, validation: Scenes, settings: TrainSettings) -> Epoch:
    """Train the image encoder in place and leave it in evaluation mode.

    Args:
        model: as `build` makes it.
        scenes: of the training split; those after the ones that are asked about later.
        validation: 200 scenes of it are judged, and decide nothing.
        settings: how to train.
    """
    encoder, head = model.encoders["image"], PlacesHead()
    steps = settings.encoder_scenes // settings.encoder_batch
    step = _step([*encoder.parameters(), *head.parameters()], steps, settings)

    def losses(_: int) -> Iterator[Tensor]:
        encoder.train()
        for start in range(settings.scenes, settings.scenes + steps * settings.encoder_batch, settings.encoder_batch):
            run = range(start, start + settings.encoder_batch)
            told = head(model.encode("image", {"image.pixels": _pixels(scenes, run)}))
            yield sum(map(nn.functional.cross_entropy, told, _wanted(scenes, run)), torch.zeros(()))

    def judge(epoch: int, loss: float, seconds: float) -> Epoch:
        model.eval()
        run = range(200)
        with torch.inference_mode():
            told = head(embed(model, validation, len(run)).to(torch.float32))
        both = zip(("kind", "colour"), told, _wanted(validation, run), strict=True)
        right = {name: float((one.argmax(1) == other).float().mean()) for name, one, other in both}
        return Epoch(epoch, loss, right, seconds)

    return loop.fit([0], losses, step, judge)[0]


@torch.inference_mode()
def embed(model: FusionModel, scenes: Scenes, count: int, batch: int = 50) -> Tensor:
    """Run the image encoder over the first scenes of a split; return its maps, float16 [count, 64, 6, 6].

    Args:
        model: whose image encoder runs.
        scenes: of the split.
        count: of scenes.
        batch: scenes per call.
    """
    runs = [range(start, min(start + batch, count)) for start in range(0, count, batch)]
    maps = [model.encode("image", {"image.pixels": _pixels(scenes, run)}).to(torch.float16) for run in runs]
    return torch.cat(maps).clone()


def fit(
    model: FusionModel,
    scenes: Scenes,
    maps: Tensor,
    validation: Callable[[], Mapping[str, float]],
    settings: TrainSettings,
    progress: Callable[[Epoch], None] | None = None,
) -> list[Epoch]:
    """Train the question encoder and the fusion in place; leave the model in evaluation mode after the last epoch.

    Args:
        model: with a trained image encoder, and the settings' dropout.
        scenes: of the training split.
        maps: of the first of them, as `embed` gives them.
        validation: accuracy by subset, for the curve; it decides nothing here, the schedule is fixed.
        settings: how to train.
        progress: called after every epoch.

    Returns:
        The curve.
    """
    parts = [model.encoders["question"], model.fusion]
    steps = len(maps) // settings.batch
    step = _step([p for part in parts for p in part.parameters()], settings.epochs * steps, settings)
    read = Reader(model)

    def losses(epoch: int) -> Iterator[Tensor]:
        for part in parts:
            part.train()
        rng = np.random.default_rng([settings.seed, epoch - 1])
        numbers = range((epoch - 1) * settings.questions, epoch * settings.questions)
        for rows in np.split(rng.permutation(len(maps))[: steps * settings.batch], steps):
            asked = read([scenes.question(int(row), number) for row in rows for number in numbers])
            absent = rng.choice(3, len(asked.targets), p=[1 - 2 * settings.absent, *2 * [settings.absent]])
            present = torch.from_numpy(np.stack([absent != 1, absent != 2], axis=1).astype(np.float32))
            told = answers(model, maps[torch.from_numpy(rows)], asked, present)
            yield nn.functional.cross_entropy(told, asked.targets)

    def judge(epoch: int, loss: float, seconds: float) -> Epoch:
        model.eval()
        return Epoch(epoch, loss, validation(), seconds)

    return loop.fit(range(1, settings.epochs + 1), losses, step, judge, progress)


def answers(model: FusionModel, maps: Tensor, asked: Asked, present: Tensor) -> Tensor:
    """Return the logits of questions, as many about each scene.

    Args:
        model: to run.
        maps: [scenes, 64, 6, 6], as `embed` gives them.
        asked: the questions.
        present: float32 [questions, 2].
    """
    question = model.encode("question", {"question.ids": asked.ids, "question.length": asked.lengths})
    image = maps.to(torch.float32).repeat_interleave(len(question) // len(maps), dim=0)
    logits: Tensor = model.fusion({"image": image, "question": question}, present)
    return logits


@torch.inference_mode()
def accuracy(
    model: FusionModel, maps: Tensor, asked: Iterable[Question], batch: int = 200
) -> dict[str, dict[str, float]]:
    """Return the accuracy by subset of the modalities: of `all` questions, and by what they are about.

    Args:
        model: to judge.
        maps: of scenes, as `embed` gives them.
        asked: as many questions about each.
        batch: scenes per call.
    """
    questions = list(asked)
    each, read = len(questions) // len(maps), Reader(model)
    about = np.array([question.about for question in questions])
    found: dict[str, dict[str, float]] = {}
    for subset in model.spec.subsets():
        row = torch.tensor([[float(name in subset) for name in MODALITIES]])
        right: list[bool] = []
        for start in range(0, len(maps), batch):
            some = read(questions[start * each : (start + batch) * each])
            told = answers(model, maps[start : start + batch], some, row.expand(len(some.targets), -1))
            right += (told.argmax(dim=1) == some.targets).tolist()
        scores = {kind: float(np.array(right)[about == kind].mean()) for kind in sorted(set(about.tolist()))}
        found[subset_name(subset)] = {"all": float(np.mean(right)), **scores}
    return found


def _step(trained: Sequence[nn.Parameter], steps: int, settings: TrainSettings) -> Step:
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        torch.optim.AdamW(trained, weight_decay=settings.weight_decay),
        settings.learning_rate,
        total_steps=steps,
        pct_start=0.2,
        final_div_factor=40,
    )
    return Step(trained, schedule, settings.gradient_norm)


def _pixels(scenes: Scenes, run: Sequence[int]) -> Tensor:
    return torch.from_numpy(np.stack([scenes.picture(index) for index in run]))


def _wanted(scenes: Scenes, run: Sequence[int]) -> tuple[Tensor, Tensor]:
    kinds, colours = zip(*(shown(scenes.scene(index)) for index in run), strict=True)
    return torch.tensor(kinds), torch.tensor(colours)
