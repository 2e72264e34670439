"""The reference model `vqa`: shapes, absence, padding, training. Needs no package: things are blots."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from edgefuse.datasets.scenes import QuestionItems, Scenes, items
from edgefuse.datasets.scenes.material import Material
from edgefuse.datasets.scenes.names import ANSWERS, COLOURS, KINDS
from edgefuse.models import vqa
from edgefuse.models.fusion import FusionModel
from edgefuse.models.reference.batches import Preprocess, collate
from edgefuse.models.vqa.training import Reader, TrainSettings, accuracy, answers, embed, fit, fit_encoder, shown

SHORT = TrainSettings(encoder_scenes=32, encoder_batch=16, scenes=16, epochs=2, batch=8, questions=2)


@pytest.fixture(scope="module")
def model() -> FusionModel:
    torch.manual_seed(0)
    return vqa.build()


@pytest.fixture
def scenes(monkeypatch: pytest.MonkeyPatch) -> Scenes:
    """Scenes of one picture of each kind: a blot."""
    blots = np.random.default_rng(0).integers(0, 2, (len(KINDS), 7, 7)).astype(np.uint8) * 255
    made = Material(np.kron(blots, np.ones((1, 4, 4), np.uint8)), np.arange(len(KINDS)))
    monkeypatch.setattr(items, "_material", lambda split, settings: made)
    return Scenes("train")


def test_it_is_small_and_answers_what_the_data_ask(model: FusionModel) -> None:
    assert sum(parameter.numel() for parameter in model.parameters()) < 500_000
    assert model.spec.outputs[0].shape == (len(ANSWERS),) == (28,)


@torch.inference_mode()
def test_answers_do_not_depend_on_what_is_absent_or_behind_the_question(model: FusionModel, scenes: Scenes) -> None:
    batch = collate(QuestionItems(scenes, 2, 1)[:], Preprocess(model))
    both = torch.ones(2, 2)
    behind = {**batch.inputs, "question.ids": batch.inputs["question.ids"].clone()}
    for row, length in enumerate(batch.inputs["question.length"].tolist()):
        behind["question.ids"][row, length:] = 5
    torch.testing.assert_close(model(behind, both), model(batch.inputs, both), rtol=0, atol=1e-5)
    dark = {**batch.inputs, "image.pixels": torch.zeros_like(batch.inputs["image.pixels"])}
    unasked = {**batch.inputs, "question.ids": torch.ones_like(batch.inputs["question.ids"])}
    for other, present in ((dark, [0.0, 1.0]), (unasked, [1.0, 0.0])):
        mask = torch.tensor([present] * 2)
        assert torch.equal(model(other, mask), model(batch.inputs, mask))
        assert not torch.equal(model(batch.inputs, mask), model(batch.inputs, both))


@torch.inference_mode()
def test_questions_of_one_scene_are_fused_with_one_map(model: FusionModel, scenes: Scenes) -> None:
    items = QuestionItems(scenes, 3, 2)
    one_by_one = collate(items[:], Preprocess(model))
    asked, maps = Reader(model)(list(items.questions())), embed(model, scenes, 3)
    assert maps.shape == (3, 64, 6, 6)
    told = answers(model, maps, asked, torch.ones(6, 2))
    # Maps are kept in half precision.
    torch.testing.assert_close(told, model(one_by_one.inputs, torch.ones(6, 2)), rtol=0, atol=5e-3)
    assert torch.equal(asked.targets, one_by_one.targets)


def test_what_is_shown_is_what_is_there(scenes: Scenes) -> None:
    for index in range(20):
        scene = scenes.scene(index)
        kinds, colours = shown(scene)
        for place, (kind, colour) in enumerate(zip(kinds, colours, strict=True)):
            there = [(t.kind, t.colour) for t in scene.things if 2 * t.row + t.column == place]
            told = ([*KINDS, "none"][kind], [*COLOURS, "none"][colour])
            assert told == (there[0] if there else ("none", "none"))


def test_training_gives_the_same_weights_every_time(scenes: Scenes) -> None:
    states: list[dict[str, Tensor]] = []
    for _ in range(2):
        torch.manual_seed(0)
        fresh = vqa.build(dropout=SHORT.dropout)
        seen = fit_encoder(fresh, scenes, scenes, SHORT)
        assert set(seen.accuracy) == {"kind", "colour"}
        encoder = {name: value.clone() for name, value in fresh.encoders["image"].state_dict().items()}
        curve = fit(fresh, scenes, embed(fresh, scenes, SHORT.scenes), lambda: {"image": 0.5}, SHORT)
        assert [point.epoch for point in curve] == [1, 2]
        now = fresh.encoders["image"].state_dict()
        assert all(torch.equal(value, now[name]) for name, value in encoder.items())
        states.append(fresh.state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    asked = QuestionItems(scenes, 5, 2).questions()
    found = accuracy(fresh, embed(fresh, scenes, 5), asked)
    assert list(found) == ["image+question", "image", "question"]
