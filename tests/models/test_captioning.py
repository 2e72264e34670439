"""The reference model `captioning`: shapes, absence, padding, both ways to run its decoder. Needs no package."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from edgefuse.datasets.scenes import CaptionItems, Scenes, items
from edgefuse.datasets.scenes.captions import STEPS, TOKENS
from edgefuse.datasets.scenes.material import Material
from edgefuse.datasets.scenes.names import KINDS
from edgefuse.models.captioning.decoder import CaptionDecoder
from edgefuse.models.captioning.model import assemble, trained_state
from edgefuse.models.captioning.training import (
    Reader,
    TrainSettings,
    embed,
    fit,
    fused,
    greedy,
    scores_by_subset,
    teacher_forced,
)
from edgefuse.models.fusion import FusionModel
from edgefuse.models.reference.batches import Preprocess


@pytest.fixture(scope="module")
def model() -> FusionModel:
    torch.manual_seed(0)
    return assemble().eval()


@pytest.fixture
def scenes(monkeypatch: pytest.MonkeyPatch) -> Scenes:
    """Scenes of one picture of each kind: a blot."""
    blots = np.random.default_rng(0).integers(0, 2, (len(KINDS), 7, 7)).astype(np.uint8) * 255
    made = Material(np.kron(blots, np.ones((1, 4, 4), np.uint8)), np.arange(len(KINDS)))
    monkeypatch.setattr(items, "_material", lambda split, settings: made)
    return Scenes("train")


def decoder(model: FusionModel) -> CaptionDecoder:
    assert isinstance(model.decoder, CaptionDecoder)
    return model.decoder


def inputs(model: FusionModel, scenes: Scenes, count: int) -> dict[str, Tensor]:
    """Return the tensors of the first items."""
    read = [Preprocess(model)(sample) for sample in CaptionItems(scenes, count)]
    return {name: torch.from_numpy(np.concatenate([one[name] for one in read])) for name in read[0]}


@torch.inference_mode()
def test_training_runs_whole_sentences_as_a_device_runs_steps(model: FusionModel, scenes: Scenes) -> None:
    count = 4
    said = Reader(model)([scenes.caption(index) for index in range(count)])
    present = torch.tensor([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    maps = embed(model, scenes, count)
    assert (maps.shape, maps.dtype) == ((count, 96, 10, 10), torch.float16)
    values = fused(model, maps, said, present)
    at_once = teacher_forced(decoder(model), values, said.targets)
    step_by_step = model(inputs(model, scenes, count), present, said.targets.clamp(min=0))
    assert at_once.shape == (count, STEPS, len(TOKENS))
    torch.testing.assert_close(at_once, step_by_step, rtol=0, atol=2e-3)  # maps are kept in half precision
    told = model(inputs(model, scenes, count), present).argmax(dim=2)
    assert (greedy(decoder(model), values) == told).float().mean() > 0.9


@torch.inference_mode()
def test_words_do_not_depend_on_what_is_absent_or_behind_the_prefix(model: FusionModel, scenes: Scenes) -> None:
    given = inputs(model, scenes, 2)
    tokens = torch.zeros(2, 3, dtype=torch.int32)
    behind = {**given, "prefix.ids": given["prefix.ids"].clone()}
    for row, length in enumerate(given["prefix.length"].tolist()):
        behind["prefix.ids"][row, length:] = 7
    both = torch.ones(2, 2)
    torch.testing.assert_close(model(behind, both, tokens), model(given, both, tokens), rtol=0, atol=1e-5)
    dark = {**given, "image.pixels": torch.zeros_like(given["image.pixels"])}
    mute = {**given, "prefix.length": torch.zeros_like(given["prefix.length"])}
    for other, present in ((dark, [0.0, 1.0]), (mute, [1.0, 0.0])):
        mask = torch.tensor([present] * 2)
        assert torch.equal(model(other, mask, tokens), model(given, mask, tokens))


def test_what_was_trained_loads_without_the_pretrained_part(model: FusionModel) -> None:
    trained = trained_state(model)
    assert sum(value.numel() * value.element_size() for value in trained.values()) <= 10_000_000
    other = assemble()
    other.load_state_dict(trained)
    assert all(torch.equal(value, trained[name]) for name, value in trained_state(other).items())
    del trained["decoder.out.weight"]
    with pytest.raises(RuntimeError, match=r"Missing key.*decoder\.out\.weight"):
        other.load_state_dict(trained)


def test_training_leaves_the_pretrained_part_and_gives_the_same_weights_every_time(scenes: Scenes) -> None:
    settings = TrainSettings(epochs=2, batch=8)
    states: list[dict[str, Tensor]] = []
    for _ in range(2):
        torch.manual_seed(0)
        fresh = assemble(dropout=settings.dropout).eval()
        before = {name: value.clone() for name, value in fresh.state_dict().items() if ".backbone." in name}
        maps = embed(fresh, scenes, 16)
        curve = fit(fresh, scenes, maps, lambda: {"image": 0.5}, settings)
        assert [point.epoch for point in curve] == [1, 2]
        assert curve[1].loss < curve[0].loss
        assert all(torch.equal(value, fresh.state_dict()[name]) for name, value in before.items())
        states.append(trained_state(fresh))
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    found = scores_by_subset(fresh, maps, scenes)
    assert list(found) == ["image+prefix", "image", "prefix"]
    assert set(found["image"]) == {"token_accuracy", "bleu", "exact", "true"}
