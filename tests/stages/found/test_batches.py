"""Found stages are held to their module in batches; shared encoders; encoders whose answers a mask is as long as."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, nn

from edgefuse.bundle.spec import Bounded, EmbeddingOutput, ModelSpec, tensor
from edgefuse.compiler.check.batches import mixing
from edgefuse.export.onnx.target import OnnxTarget
from edgefuse.stages.examples import masks_of
from edgefuse.stages.found import find
from edgefuse.stages.found.calling import whole_spec
from edgefuse.stages.found.chain import held_to_module
from edgefuse.stages.found.parts import Unsplittable
from edgefuse.stages.stage import TorchStage
from tests.stages.found import models
from tests.stages.found.models import MOTION, SOUND, described
from tests.stages.found.test_found import Absent, found, names


class _OneByOne(nn.Module):
    """Takes one sample: the second one of a batch has no place in the view."""

    def __init__(self) -> None:
        super().__init__()
        self.sound, self.motion, self.head = nn.Linear(8, 64), nn.Linear(42, 64), nn.Linear(128, 4)

    def forward(self, sound: Tensor, motion: Tensor) -> Tensor:
        felt = self.motion(motion.reshape(1, 42)).relu()
        logits: Tensor = self.head(torch.cat([self.sound(sound).relu().mean(1), felt], 1))
        return logits


def test_why_a_model_was_traced_for_one_sample_is_said_in_the_words_of_torch() -> None:
    made = find(_OneByOne(), described(SOUND, MOTION))
    (note,) = made.notes
    assert note.startswith(
        "the model was traced for one sample: in batches torch.export refuses it at 'test_batches.py:"
    )
    assert "motion.reshape(1, 42)" in note
    assert "RuntimeError: " in note


class _Optional(Absent):
    """Only motion may be absent; without sound, which is always there, the model is never called."""

    def forward(self, sound: Tensor, motion: Tensor, present: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        b = self.motion(motion)
        b = torch.where(present[:, 1:] > 0, b, torch.zeros_like(b))
        return {"logits": self.head(torch.cat([self.sound(sound), b], 1))}


def test_no_modality_is_tried_as_absent_that_never_is() -> None:
    made = found(_Optional(), described(SOUND, tensor("motion", shape=(1, 7, 6), optional=True)))
    assert names(made) == ["sound_encoder", "motion_encoder", "fusion"], made.notes


class _Mixing(nn.Module):
    """Mixes the samples of a batch where that is short."""

    def __init__(self, encoder: nn.Module, below: int) -> None:
        super().__init__()
        self.encoder, self.below = encoder, below

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.encoder(x)
        return y - y.mean(0) + y.mean(0, keepdim=True) * 2 if len(x) > 1 and x.shape[1] < self.below else y


def test_stages_are_held_to_the_module_in_short_batches_too() -> None:
    spec = described(SOUND, MOTION)
    made = found(models.Plain(), spec)
    whole = TorchStage(whole_spec(made.spec), made.module)
    stages = [(stage.spec, stage.module) for stage in made.stages]
    assert held_to_module(stages, whole, ())
    stages[0] = (stages[0][0], _Mixing(stages[0][1], 12))
    with pytest.raises(Unsplittable, match="in a batch of 3 short ones"):
        held_to_module(stages, whole, ())


class _Unmasked(nn.Module):
    """Gives its neighbour's answer where a sample is all zeros, as what is absent is."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor, y: Tensor, present: Tensor) -> Tensor:
        result: Tensor = self.encoder(x, y, present)
        return torch.where(present.min() < present.max(), result.roll(1, 0), result) if len(x) > 1 else result


def test_stages_are_held_to_the_module_in_batches_of_which_some_modalities_are_absent() -> None:
    made = found(Absent(), described(SOUND, tensor("motion", shape=(1, 7, 6), optional=True)))
    whole = TorchStage(whole_spec(made.spec), made.module)
    stages = [(stage.spec, stage.module) for stage in made.stages]
    masks = masks_of(made.spec)
    assert masks == ((1.0, 1.0), (1.0, 0.0))
    assert held_to_module(stages, whole, masks)
    stages[-1] = (stages[-1][0], _Unmasked(stages[-1][1]))
    with pytest.raises(Unsplittable, match=r"in a batch of 3$"):
        held_to_module(stages, whole, masks)


def test_a_shared_encoder_has_one_file() -> None:
    made = found(models.Siamese(), models.siamese_spec())
    assert [stage.alike for stage in made.stages] == ["", "left_encoder", ""]
    left, right = (OnnxTarget().lower(stage) for stage in made.stages[:2])
    assert left.data == right.data


class Heard(nn.Module):
    """A sequence whose valid steps another input attends to."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.question = nn.GRU(6, 16, batch_first=True, bidirectional=True), nn.Linear(6, 32)
        self.head = nn.Linear(32, 4)

    def forward(self, sound: Tensor, question: Tensor, sound_length: Tensor) -> Tensor:
        steps, _ = self.layer(sound)
        scores = (steps @ self.question(question).unsqueeze(2)).squeeze(2)
        valid = torch.arange(steps.shape[1]).unsqueeze(0) < sound_length.unsqueeze(1)
        weights = scores.masked_fill(~valid, -1e4).softmax(1)
        y: Tensor = self.head((weights.unsqueeze(2) * steps).sum(1))
        return y


def test_a_recurrent_layer_is_an_encoder_though_a_mask_is_as_long_as_its_answers() -> None:
    sound, question = tensor("sound", shape=(1, Bounded(max=20), 6), length=True), tensor("question", shape=(1, 6))
    described = ModelSpec(name="heard", modalities=(sound, question), outputs=(EmbeddingOutput(size=4),))
    made = found(Heard().eval(), described)
    assert names(made) == ["sound_encoder", "question_encoder", "fusion"]
    assert not made.notes


class Short(nn.Module):
    """What is done to few steps stands between the layers: no layer holds it."""

    def __init__(self) -> None:
        super().__init__()
        self.sound, self.motion, self.head = nn.Linear(8, 16), nn.Linear(6, 16), nn.Linear(32, 4)

    def forward(self, sound: Tensor, motion: Tensor) -> Tensor:
        steps = self.sound(sound)
        if steps.shape[1] < 4:
            steps = nn.functional.pad(steps, (0, 0, 0, 4 - steps.shape[1]))
        y: Tensor = self.head(torch.cat([steps.mean(1), self.motion(motion).mean(1)], 1))
        return y


def test_stages_are_held_to_the_module_at_sizes_that_it_decides_on_and_its_line_is_said() -> None:
    made = found(Short(), described(SOUND, MOTION))
    assert names(made) == ["model"]
    (note,) = made.notes
    assert re.fullmatch(
        r"one stage, because the stages and the module differ by .* in '\w+' at other sizes than the largest, which is "
        r"decided at 'test_batches\.py:\d+: if steps\.shape\[1\] < 4:'",
        note,
    )


class _Counted(nn.Module):
    """Learned tokens beside what was heard and felt, for as many samples as `len` says."""

    def __init__(self) -> None:
        super().__init__()
        self.sound, self.motion, self.head = nn.Linear(8, 64), nn.Linear(6, 64), nn.Linear(128, 4)
        self.tokens = nn.Parameter(torch.randn(1, 4, 64))

    def forward(self, sound: Tensor, motion: Tensor) -> Tensor:
        tokens = self.tokens.expand(len(sound), -1, -1)
        heard, felt = (torch.cat([y, tokens], 1).relu().mean(1) for y in (self.sound(sound), self.motion(motion)))
        logits: Tensor = self.head(torch.cat([heard, felt], 1))
        return logits


class _Looped(_Counted):
    """Goes through the samples one by one, which torch writes out for as many as it traces."""

    def forward(self, sound: Tensor, motion: Tensor) -> Tensor:
        tokens = torch.stack([self.tokens[0] for _ in range(len(sound))])
        heard, felt = (torch.cat([y, tokens], 1).relu().mean(1) for y in (self.sound(sound), self.motion(motion)))
        logits: Tensor = self.head(torch.cat([heard, felt], 1))
        return logits


def test_a_batch_that_the_model_counts_stays_open() -> None:
    made = find(_Counted(), described(SOUND, MOTION))
    assert [stage.spec.name for stage in made.stages] == ["sound_encoder", "motion_encoder", "fusion"]
    assert made.notes == ()
    assert not mixing(made.stages)


def test_stages_of_a_model_that_takes_batches_take_them_too() -> None:
    made = find(_Looped(), described(SOUND, MOTION))
    assert made.notes[-1] == (
        "one stage, because it takes batches, and torch traces it for one sample alone: it fixes the batch"
    )
    assert not mixing(made.stages)
