"""Stages are found in models that nobody took apart, and answer as the models do."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from edgefuse.bundle.manifest import PruningStep
from edgefuse.bundle.spec import Bounded, EmbeddingOutput, ModelSpec, image, tensor
from edgefuse.bundle.wiring import check_model, check_stages
from edgefuse.errors import ModelError
from edgefuse.prune.persist import restore, save
from edgefuse.prune.structured import StructuredPruner
from edgefuse.stages.examples import example_feeds
from edgefuse.stages.found import Found, find
from edgefuse.stages.running import run_torch
from tests.stages.found import models
from tests.stages.found.models import MOTION, SOUND, described


def found(module: nn.Module, spec: ModelSpec) -> Found:
    """Return what is found, after the checks that a compile makes."""
    torch.manual_seed(0)
    made = find(module, spec)
    check_model(made.spec)
    check_stages(made.spec, [stage.spec for stage in made.stages])
    return made


def names(made: Found) -> list[str]:
    return [stage.spec.name for stage in made.stages]


def test_a_plain_module_has_its_encoders_as_they_are_and_a_fusion() -> None:
    module = models.Plain().eval()
    made = found(module, described(SOUND, MOTION))
    assert names(made) == ["sound_encoder", "motion_encoder", "fusion"]
    assert made.stages[0].module is module.sound
    assert made.stages[1].module is module.motion
    assert made.stages[2].module.get_submodule("head") is module.head
    assert [crossing.size_bytes for crossing in made.crossings] == [64, 64]
    assert made.share is not None
    assert made.share > 0.8
    assert not made.notes


def test_results_of_one_modality_are_its_own_and_what_nobody_asked_for_is_dropped() -> None:
    made = found(models.Clip(), models.clip_spec())
    assert names(made) == ["image_encoder", "text_encoder"]
    assert [[port.tensor.name for port in stage.spec.outputs] for stage in made.stages] == [
        ["image_embeds"],
        ["text_embeds"],
    ]
    assert made.crossings == ()


def test_a_condition_that_enters_at_every_layer_crosses_once() -> None:
    made = found(models.Film(), models.film_spec())
    assert names(made) == ["signal_encoder", "words_encoder", "fusion"]
    assert [(c.source, c.size_bytes) for c in made.crossings if c.source == "words_encoder"] == [("words_encoder", 128)]


def test_keys_and_values_of_every_layer_are_computed_from_what_crosses_once() -> None:
    made = found(models.Crossed(), models.crossed_spec())
    assert names(made) == ["image_encoder", "text_encoder", "fusion"]
    assert len([c for c in made.crossings if c.source == "image_encoder"]) == 1
    assert made.stages[2].module.get_submodule("layers.1.out") is not None


def test_two_of_three_modalities_that_meet_first_are_a_stage() -> None:
    made = found(models.Pairs(), models.pairs_spec())
    assert names(made) == ["sound_encoder", "motion_encoder", "table_encoder", "sound_motion_fusion", "fusion"]


def test_a_shared_encoder_is_one_module() -> None:
    module = models.Siamese().eval()
    made = found(module, models.siamese_spec())
    assert made.stages[0].module is made.stages[1].module is module.encoder
    assert [port.tensor for port in made.stages[0].spec.inputs] == [port.tensor for port in made.stages[1].spec.inputs]


def test_stages_travel_to_workers() -> None:
    made = found(models.Crossed(), models.crossed_spec())
    copies = pickle.loads(pickle.dumps([stage.module for stage in made.stages]))
    for stage, copy in zip(made.stages, copies, strict=True):
        assert sorted(copy.state_dict()) == sorted(stage.module.state_dict())


class NoExamples:
    """Magnitudes need none."""

    def __len__(self) -> int:
        return 0

    def batch(self, indices: object) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        raise NotImplementedError


def test_found_stages_are_pruned_as_if_split_by_hand() -> None:
    made = found(models.Crossed(), models.crossed_spec())
    step = PruningStep(method="structured", ratio=0.5, importance="magnitude")
    for stage in made.stages[:2]:
        narrow = StructuredPruner().prune(stage, step, NoExamples())
        count = sum(parameter.numel() for parameter in narrow.parameters())
        assert count < 0.9 * sum(parameter.numel() for parameter in stage.module.parameters())
        feeds = next(example_feeds(stage))
        outputs = run_torch(replace(stage, module=restore(stage.module, save(narrow))), feeds)
        assert [value.shape for value in outputs.values()] == [o.tensor.max_shape for o in stage.spec.outputs]


class TimeFirst(nn.Module):
    """Steps before samples, as recurrent layers have them by default; heads in the batch on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.GRU(6, 16), nn.GRU(6, 16)
        self.mix, self.head = nn.MultiheadAttention(16, 4), nn.Linear(16, 4)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        a, b = self.left(left.transpose(0, 1))[0], self.right(right.transpose(0, 1))[0]
        y: Tensor = self.head(self.mix(a, b, b, need_weights=False)[0].mean(0))
        return y


def test_samples_come_first_in_what_crosses() -> None:
    made = found(TimeFirst(), models.siamese_spec())
    assert names(made) == ["left_encoder", "right_encoder", "fusion"]
    assert [crossing.shape for crossing in made.crossings] == [(1, 7, 16), (1, 7, 16)]


class Masked(nn.Module):
    """A mask of truth values, a picture of bytes, a mean over what is there."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.picture = nn.Embedding(30, 16), nn.Conv2d(3, 16, 4, 4)
        self.mix = nn.MultiheadAttention(16, 2, batch_first=True)
        self.hidden, self.head = nn.Sequential(nn.Linear(16, 256), nn.ReLU(), nn.Linear(256, 16)), nn.Linear(16, 4)

    def forward(self, pixels: Tensor, ids: Tensor, mask: Tensor) -> tuple[Tensor]:
        one_hot = nn.functional.one_hot(ids, 30).to(torch.float32)
        words = self.hidden(one_hot @ self.words.weight)
        x = self.picture(pixels.permute(0, 3, 1, 2).to(torch.float32) / 255.0).flatten(2).transpose(1, 2)
        y = self.mix(x, words, words, key_padding_mask=~mask, need_weights=False)[0]
        return (self.head(y.mean(1)),)


def test_inputs_have_the_types_that_the_module_wants() -> None:
    words = models.several("text", ("ids", "int32", (1, Bounded(max=9))), ("mask", "int32", (1, Bounded(max=9))))
    made = found(Masked(), described(image("image", height=16, width=16), words))
    assert names(made) == ["image_frontend", "image_encoder", "text_encoder", "fusion"]
    assert {port.tensor.dtype for port in made.stages[2].spec.inputs} == {"int32"}
    assert {port.tensor.dtype for port in made.stages[3].spec.inputs} <= {"float32", "int32"}


class Late(nn.Module):
    """Nearly all work is done on everything."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(48, 512), nn.ReLU(), nn.Linear(512, 4))

    def forward(self, sound: Tensor, motion: Tensor) -> Tensor:
        y: Tensor = self.body(torch.cat([sound.mean(1), motion.flatten(1)[:, :40]], 1))
        return y


def test_a_model_that_fuses_at_once_stays_one_stage_with_the_reason() -> None:
    made = found(Late(), described(SOUND, MOTION))
    assert names(made) == ["model"]
    assert made.notes[0].startswith("one stage, because ")


class Absent(models.Plain):
    """A model that is told what is there."""

    def forward(self, sound: Tensor, motion: Tensor, present: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        a, b = self.sound(sound), self.motion(motion)
        a = torch.where(present[:, :1] > 0, a, torch.zeros_like(a))
        b = torch.where(present[:, 1:] > 0, b, torch.zeros_like(b))
        return {"logits": self.head(torch.cat([a, b], 1))}


OPTIONAL = tensor("motion", shape=(1, 7, 6), optional=True)


def test_absence_is_known_to_fusion_alone() -> None:
    made = found(Absent(), described(SOUND, OPTIONAL))
    assert names(made) == ["sound_encoder", "motion_encoder", "fusion"]
    assert made.stages[2].spec.inputs[-1].source.kind == "present"
    assert made.spec.modalities[1].optional


class Muted(models.Plain):
    """A model that applies what is there to its inputs."""

    def forward(self, sound: Tensor, motion: Tensor, present: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        there = present.unsqueeze(2)
        features = [self.sound(sound * there[:, :1]), self.motion(motion)]
        return {"logits": self.head(torch.cat(features, 1))}


def test_a_mask_that_enters_before_an_encoder_is_named_with_its_line() -> None:
    made = found(Muted(), described(SOUND, OPTIONAL))
    (note,) = [note for note in made.notes if "`present`" in note]
    assert "`present` enters at 'test_found.py:" in note
    assert "features = [self.sound(sound * there[:, :1])" in note
    assert not [note for note in found(Absent(), described(SOUND, OPTIONAL)).notes if "`present`" in note]


def test_without_the_mask_every_modality_is_required() -> None:
    made = found(models.Plain(), described(SOUND, OPTIONAL))
    assert not made.spec.modalities[1].optional
    assert made.notes == ("forward takes no `present`, so every modality is required",)


class Dual(models.Plain):
    """Two encoders, and nothing that reads both."""

    def forward(self, sound: Tensor, motion: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return self.sound(sound), self.motion(motion)


def test_no_mask_is_needed_where_no_stage_reads_two_modalities() -> None:
    outputs = (EmbeddingOutput(name="a", size=16), EmbeddingOutput(name="b", size=16))
    made = found(Dual(), described(SOUND, OPTIONAL, outputs=outputs))
    assert [stage.spec.modality for stage in made.stages] == ["sound", "motion"]
    assert made.spec.modalities[1].optional
    assert made.notes == ()
    told = made.module(torch.zeros(1, 12, 8), torch.zeros(1, 7, 6), torch.ones(1, 2))  # the mask is taken, and not read
    assert [tuple(point.shape) for point in told] == [(1, 16), (1, 16)]


class Branching(models.Plain):
    def forward(self, sound: Tensor, motion: Tensor) -> dict[str, Tensor]:
        if sound.sum() > 0:
            motion = motion * 2
        return super().forward(sound, motion)


def test_what_cannot_be_traced_is_one_sentence_with_the_line(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ModelError) as caught:
        find(Branching(), described(SOUND, MOTION))
    assert "torch.export cannot trace the model Branching at 'test_found.py:" in str(caught.value)
    assert "if sound.sum() > 0:" in str(caught.value)
    assert len(str(caught.value)) < 700
    assert capfd.readouterr() == ("", "")


def test_names_that_do_not_match_are_told() -> None:
    spec = described(SOUND, tensor("picture", shape=(1, 7, 6)), tensor("third", shape=(1, 3)))
    with pytest.raises(ModelError, match=r"inputs of Plain\.forward .*got motion.*picture_values or picture"):
        find(models.Plain(), spec)


def test_an_output_that_is_not_there_is_told() -> None:
    with pytest.raises(ModelError, match=r"does not return the output 'embedding' .*got loss, logits"):
        find(models.Plain(), described(SOUND, MOTION, outputs=(EmbeddingOutput(size=4),)))


class Positional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.plain = models.Plain()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.plain(x, y)["logits"]  # type: ignore[no-any-return] # a tensor


def test_a_module_called_by_position_stays_one_stage() -> None:
    made = found(Positional(), described(SOUND, MOTION))
    assert names(made) == ["model"]
    assert "by position" in made.notes[0]


class _Pooled(nn.Module):
    """Returns steps and a pooled result that nobody reads; casts twice to what it has, and changes in place."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer, self.pooler = nn.Linear(width, 64), nn.Linear(64, 64)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.layer(x).relu_()
        return y, torch.tanh(self.pooler(y[:, 0]))


class _Unread(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.sound, self.motion, self.head = _Pooled(8), _Pooled(6), nn.Linear(128, 4)

    def forward(self, sound: Tensor, motion: Tensor) -> Tensor:
        given = (x.to(torch.float32).to(torch.float32) for x in (sound, motion))
        heard, felt = (encoder(x)[0].mean(1) for encoder, x in zip((self.sound, self.motion), given, strict=True))
        logits: Tensor = self.head(torch.cat([heard, felt], 1))
        return logits


def test_encoders_stay_modules_where_a_result_is_not_read_and_casts_do_nothing() -> None:
    made = find(_Unread(), described(SOUND, MOTION))
    assert [work.modules for work in made.work] == [("sound",), ("motion",), ("head",)]


class _Borrowed(nn.Module):
    """Steps as a batch of their own, and back by the batch that another input has."""

    def __init__(self) -> None:
        super().__init__()
        self.motion, self.sound, self.head = nn.Linear(6, 64), nn.Linear(8, 64), nn.Linear(128, 4)

    def forward(self, sound: Tensor, motion: Tensor) -> Tensor:
        felt = self.motion(motion.flatten(0, 1)).relu().view(sound.shape[0], 7, -1).mean(1)
        logits: Tensor = self.head(torch.cat([self.sound(sound).relu().mean(1), felt], 1))
        return logits


def test_the_batch_of_another_input_is_that_of_ones_own() -> None:
    made = find(_Borrowed(), described(SOUND, MOTION))
    assert [stage.spec.name for stage in made.stages] == ["sound_encoder", "motion_encoder", "fusion"], made.notes
    assert made.notes == ()


class _Across(nn.Module):
    """Layers in which one sequence attends to another."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.attention = nn.ModuleList(nn.MultiheadAttention(width, 2, batch_first=True) for _ in range(layers))
        self.wide = nn.ModuleList(nn.Linear(width, 4 * width) for _ in range(layers))
        self.narrow = nn.ModuleList(nn.Linear(4 * width, width) for _ in range(layers))

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        for attention, wide, narrow in zip(self.attention, self.wide, self.narrow, strict=True):
            x = x + attention(x, other, other, need_weights=False)[0]
            x = x + narrow(wide(x).relu())
        return x


class _Pairs(nn.Module):
    """Three sequences, each of which attends to both others before all meet; one of them comes as it is."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.enter = nn.ModuleDict({name: nn.Linear(size, width) for name, size in (("sound", 8), ("motion", 6))})
        self.names = ("sound", "motion", "depth")
        self.pairs = nn.ModuleDict({f"{a}_{b}": _Across(width, 3) for a in self.names for b in self.names if a != b})
        self.head = nn.Linear(6 * width, 4)

    def forward(self, sound: Tensor, motion: Tensor, depth: Tensor) -> Tensor:
        given = {"sound": self.enter["sound"](sound), "motion": self.enter["motion"](motion), "depth": depth.flip(1)}
        ends = [self.pairs[f"{a}_{b}"](given[a], given[b]).mean(1) for a in given for b in given if a != b]
        logits: Tensor = self.head(torch.cat(ends, 1))
        return logits


def test_what_pairs_of_modalities_meet_in_stays_whole_and_what_does_nothing_is_no_stage() -> None:
    made = find(_Pairs(), described(SOUND, MOTION, tensor("depth", shape=(1, 9, 32))))
    modules = {work.stage: work.modules for work in made.work}
    assert modules == {
        "sound_encoder": ("enter.sound",),
        "motion_encoder": ("enter.motion",),
        "sound_motion_fusion": ("pairs.sound_motion", "pairs.motion_sound"),
        "sound_depth_fusion": ("pairs.sound_depth", "pairs.depth_sound"),
        "motion_depth_fusion": ("pairs.motion_depth", "pairs.depth_motion"),
        "fusion": ("head",),
    }
