"""Train the fusion, the prefix encoder and the decoder of `captioning` on what the pretrained CNN gives.

The CNN runs once over the scenes. Every epoch has another sentence about each scene; some lack the picture, some the
prefix. The decoder's LSTM runs over whole sentences at once, with the weights of its cell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from edgefuse.bundle.spec import TokensOutput, subset_name
from edgefuse.datasets.scenes import Scenes
from edgefuse.datasets.scenes.captions import STEPS, Caption, spelled, truths
from edgefuse.datasets.scenes.names import START
from edgefuse.models.captioning.decoder import CaptionDecoder
from edgefuse.models.captioning.fusion import MODALITIES
from edgefuse.models.captioning.model import model_spec
from edgefuse.models.decoder import unrolled
from edgefuse.models.fusion import FusionModel
from edgefuse.models.reference import loop
from edgefuse.models.reference.loop import Step
from edgefuse.runtime.preprocess import Preprocessor

_NO_TARGET = -100  # torch's losses leave it out


@dataclass(frozen=True)
class TrainSettings:
    """How the model is trained.

    Attributes:
        epochs: passes over the scenes, in a one-cycle schedule (arXiv:1708.07120).
        scenes: for training.
        batch: sentences per step.
        no_prefix: the share of sentences whose prefix is not given.
        no_image: the share of sentences without the picture.
        learning_rate: the peak; it ends at a thousandth of it.
        weight_decay: of all trained weights.
        dropout: in the decoder.
        gradient_norm: gradients are clipped at this norm.
        threads: of torch; another number rounds differently.
        seed: of the initial weights, the order of scenes, and what is absent.
    """

    epochs: int = 10
    scenes: int = 10_000
    batch: int = 64
    no_prefix: float = 0.2
    no_image: float = 0.05
    learning_rate: float = 3e-3
    weight_decay: float = 0.02
    dropout: float = 0.1
    gradient_norm: float = 1.0
    threads: int = 1
    seed: int = 0


@dataclass(frozen=True)
class Epoch:
    """One point of the training curve.

    Attributes:
        epoch: counted from 1.
        loss: mean training loss.
        token_accuracy: on the validation data, by subset.
        seconds: since training began.
    """

    epoch: int
    loss: float
    token_accuracy: Mapping[str, float]
    seconds: float


@dataclass(frozen=True)
class Sentences:
    """Captions as tensors.

    Attributes:
        ids: int32 [N, 5], of the prefixes.
        lengths: int32 [N].
        targets: int64 [N, 13], tokens with the end, filled up with -100.
    """

    ids: Tensor
    lengths: Tensor
    targets: Tensor


class Reader:
    """Makes tensors of captions, with the code that a device runs."""

    def __init__(self, model: FusionModel) -> None:
        self._read = Preprocessor(model.spec.modality("prefix"), model.assets.__getitem__)
        self._known: dict[str, Mapping[str, np.ndarray]] = {}

    def __call__(self, captions: Sequence[Caption]) -> Sentences:
        """Return them as tensors."""
        targets = torch.full((len(captions), STEPS), _NO_TARGET)
        for row, caption in enumerate(captions):
            targets[row, : len(caption.ids)] = torch.tensor(caption.ids)
            if caption.prefix not in self._known:
                self._known[caption.prefix] = self._read(caption.prefix)
        read = [self._known[caption.prefix] for caption in captions]
        ids, lengths = (np.concatenate([one[f"prefix.{name}"] for one in read]) for name in ("ids", "length"))
        return Sentences(torch.from_numpy(ids), torch.from_numpy(lengths), targets)


@torch.inference_mode()
def embed(model: FusionModel, scenes: Scenes, count: int, batch: int = 25) -> Tensor:
    """Run the pretrained CNN over the first scenes of a split; return its maps, float16 [count, 96, 10, 10].

    Args:
        model: whose image encoder runs.
        scenes: of the split.
        count: of scenes.
        batch: scenes per call.
    """
    read = Preprocessor(model.spec.modality("image"), model.assets.__getitem__)
    maps: list[Tensor] = []
    for start in range(0, count, batch):
        run = range(start, min(start + batch, count))
        pixels = np.concatenate([read(scenes.picture(index))["image.pixels"] for index in run])
        maps.append(model.encode("image", {"image.pixels": torch.from_numpy(pixels)}).to(torch.float16))
    return torch.cat(maps).clone()


def fit(
    model: FusionModel,
    scenes: Scenes,
    maps: Tensor,
    validation: Callable[[], Mapping[str, float]],
    settings: TrainSettings,
    progress: Callable[[Epoch], None] | None = None,
) -> list[Epoch]:
    """Train in place and leave the model in evaluation mode, as the last epoch left it.

    Args:
        model: as `build` makes it, with the settings' dropout.
        scenes: of the training split.
        maps: of the first of them, as `embed` gives them.
        validation: token accuracy by subset, for the curve; it decides nothing here, the schedule is fixed.
        settings: how to train.
        progress: called after every epoch.

    Returns:
        The curve.
    """
    model.encoders["image"].requires_grad_(False)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, weight_decay=settings.weight_decay)
    steps = len(maps) // settings.batch
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, total_steps=settings.epochs * steps, pct_start=0.2, final_div_factor=40
    )
    read = Reader(model)

    def losses(epoch: int) -> Iterator[Tensor]:
        model.train()
        model.encoders["image"].eval()
        rng = np.random.default_rng([settings.seed, epoch - 1])
        for rows in np.split(rng.permutation(len(maps))[: steps * settings.batch], steps):
            said = read([scenes.caption(int(row), epoch - 1) for row in rows])
            yield _loss(model, maps[torch.from_numpy(rows)], said, _present(len(rows), settings, rng))

    def judge(epoch: int, loss: float, seconds: float) -> Epoch:
        model.eval()
        return Epoch(epoch, loss, validation(), seconds)

    step = Step(trained, schedule, settings.gradient_norm)
    return loop.fit(range(1, settings.epochs + 1), losses, step, judge, progress)


def fused(model: FusionModel, maps: Tensor, said: Sentences, present: Tensor) -> dict[str, Tensor]:
    """Return what every step of the decoder reads, and its first states.

    Args:
        model: to run.
        maps: [N, 96, 10, 10], as `embed` gives them.
        said: of as many scenes.
        present: float32 [N, 2].
    """
    prefix = model.encode("prefix", {"prefix.ids": said.ids, "prefix.length": said.lengths})
    values: dict[str, Tensor] = _decoder(model).prepare(
        *model.fusion({"image": maps.to(torch.float32), "prefix": prefix}, present)
    )
    return values


def teacher_forced(decoder: CaptionDecoder, values: Mapping[str, Tensor], targets: Tensor) -> Tensor:
    """Return the logits of all steps at once, [N, 13, words], each from the right words before it.

    Args:
        decoder: to run.
        values: as `fused` gives them.
        targets: [N, 13], filled up with -100.
    """
    start = torch.full_like(targets[:, :1], START)
    before = torch.cat([start, targets[:, :-1].clamp(min=0)], dim=1)
    cell = decoder.cell
    weights = [cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh]
    first = (values["h"].unsqueeze(0).contiguous(), values["c"].unsqueeze(0).contiguous())
    states = torch.lstm(decoder.embedding(before), first, weights, True, 1, 0.0, decoder.training, False, True)[0]
    return decoder.tell(states, values)


@torch.inference_mode()
def greedy(decoder: CaptionDecoder, values: Mapping[str, Tensor]) -> Tensor:
    """Return the likeliest token after the likeliest ones, int64 [N, 13], step by step as a device does it.

    Args:
        decoder: to run.
        values: as `fused` gives them.
    """
    output = model_spec().outputs[0]
    assert isinstance(output, TokensOutput)
    return unrolled(decoder, output, values, None).argmax(dim=2)


@torch.inference_mode()
def scores_by_subset(
    model: FusionModel, maps: Tensor, scenes: Scenes, sentences: bool = True, batch: int = 100
) -> dict[str, dict[str, float]]:
    """Judge by every subset of the modalities, on the first caption of each scene.

    Args:
        model: to judge.
        maps: of the first scenes, as `embed` gives them.
        scenes: of the split.
        sentences: whether to tell whole sentences, too.
        batch: scenes per call.

    Returns:
        By subset `token_accuracy`, from the right words before each; and of whole sentences, each word from the
        model's own before it, `bleu` (Papineni et al., ACL 2002), `exact`, the share that are the scene's own
        caption, and `true`, the share that are true of it, whichever of its things they begin with.
    """
    captions = [scenes.caption(index) for index in range(len(maps))]
    said = Reader(model)(captions)
    decoder = _decoder(model)
    found: dict[str, dict[str, float]] = {}
    for subset in model.spec.subsets():
        present = torch.tensor([[float(name in subset) for name in MODALITIES]])
        right, told = 0, list[str]()
        for rows in torch.split(torch.arange(len(maps)), batch):
            part = Sentences(said.ids[rows], said.lengths[rows], said.targets[rows])
            values = fused(model, maps[rows], part, present.expand(len(rows), -1))
            right += int((teacher_forced(decoder, values, part.targets).argmax(dim=2) == part.targets).sum())
            told += [spelled(ids) for ids in greedy(decoder, values).tolist()] if sentences else []
        scores = {"token_accuracy": right / int((said.targets != _NO_TARGET).sum())}
        name = subset_name(subset)
        found[name] = {**scores, **judged(told, captions, scenes)} if sentences else scores
    return found


def judged(told: Sequence[str], captions: Sequence[Caption], scenes: Scenes) -> dict[str, float]:
    """Judge sentences about the first scenes; see `scores_by_subset`.

    Args:
        told: the sentences.
        captions: the right ones.
        scenes: of the split.
    """
    from torchmetrics.functional.text import bleu_score

    wanted = [caption.text for caption in captions]
    return {
        "bleu": float(bleu_score(told, [[text] for text in wanted])),
        "exact": float(np.mean([one == other for one, other in zip(told, wanted, strict=True)])),
        "true": float(np.mean([text in truths(scenes.scene(index)) for index, text in enumerate(told)])),
    }


def _loss(model: FusionModel, maps: Tensor, said: Sentences, present: Tensor) -> Tensor:
    logits = teacher_forced(_decoder(model), fused(model, maps, said, present), said.targets)
    return nn.functional.cross_entropy(logits.flatten(0, 1), said.targets.flatten(), ignore_index=_NO_TARGET)


def _present(count: int, settings: TrainSettings, rng: np.random.Generator) -> Tensor:
    """Draw what is there, float32 [count, 2]."""
    shares = [1 - settings.no_image - settings.no_prefix, settings.no_image, settings.no_prefix]
    absent = rng.choice(3, count, p=shares)
    return torch.from_numpy(np.stack([absent != 1, absent != 2], axis=1).astype(np.float32))


def _decoder(model: FusionModel) -> CaptionDecoder:
    decoder = model.decoder
    assert isinstance(decoder, CaptionDecoder)
    return decoder
