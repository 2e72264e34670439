"""The reference model `sentiment` and the model of three: shapes, absence, padding, training. Needs no package."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from edgefuse.models.fusion import FusionModel
from edgefuse.models.reference.batches import Preprocess, collate
from edgefuse.models.sentiment import model as sentiment
from edgefuse.models.sentiment import three
from edgefuse.models.sentiment.model import is_trained, trained_state
from edgefuse.models.sentiment.text import TextEncoder
from edgefuse.models.sentiment.training import Embeddings, TrainSettings, fit, scores, scores_by_subset


@pytest.fixture(scope="module")
def model() -> FusionModel:
    torch.manual_seed(0)
    return sentiment.assemble().eval()


@pytest.fixture(scope="module")
def of_three() -> FusionModel:
    return three.build()


def inputs() -> dict[str, Tensor]:
    """Return random tensors for both modalities."""
    generator = torch.Generator().manual_seed(1)
    return {
        "audio.samples": torch.rand(2, 64_000, generator=generator) - 0.5,
        "text.ids": torch.randint(2, 30_000, (2, 48), dtype=torch.int32, generator=generator),
        "text.length": torch.tensor([5, 48], dtype=torch.int32),
    }


def test_what_is_trained_is_small(model: FusionModel) -> None:
    assert 22_000_000 <= sum(parameter.numel() for parameter in model.parameters()) <= 26_000_000
    assert sum(value.numel() * value.element_size() for value in trained_state(model).values()) <= 10_000_000


@torch.inference_mode()
def test_answers_do_not_depend_on_what_is_absent_or_behind_the_text(model: FusionModel) -> None:
    given = inputs()
    behind = {**given, "text.ids": given["text.ids"].clone()}
    behind["text.ids"][0, 5:] = 3
    torch.testing.assert_close(model(behind, torch.ones(2, 2)), model(given, torch.ones(2, 2)), rtol=0, atol=1e-5)
    silent = {**given, "audio.samples": torch.zeros(2, 64_000)}
    text_alone = torch.tensor([[0.0, 1.0]] * 2)
    assert torch.equal(model(silent, text_alone), model(given, text_alone))
    assert model(given, text_alone).shape == (2, 2)


@torch.inference_mode()
def test_the_text_encoder_is_its_base_and_its_top(model: FusionModel) -> None:
    encoder = model.encoders["text"]
    assert isinstance(encoder, TextEncoder)
    ids, length = inputs()["text.ids"], torch.tensor([5, 20], dtype=torch.int32)
    feature = encoder(ids, length)
    torch.testing.assert_close(encoder.top(encoder.base(ids[:, :20], length), length), feature, rtol=0, atol=1e-5)


def test_what_was_trained_loads_without_the_pretrained_parts(model: FusionModel) -> None:
    trained = trained_state(model)
    other = sentiment.assemble()
    other.load_state_dict(trained)
    assert all(torch.equal(value, trained[name]) for name, value in trained_state(other).items())
    layers = {name.split(".")[4] for name in trained if name.startswith("encoders.text.backbone.layers.")}
    assert layers == {"5"}
    del trained["encoders.text.backbone.layers.5.norm1.weight"]
    with pytest.raises(RuntimeError, match=r"Missing key.*layers\.5\.norm1\.weight"):
        other.load_state_dict(trained)


def test_scores_are_those_of_the_definitions() -> None:
    labels, found = (np.array(values, np.int64) for values in ([1, 1, 1, 0, 0, 0, 0, 1], [1, 1, 0, 0, 0, 1, 0, 1]))
    assert scores(labels, found) == pytest.approx(
        {
            "accuracy": 6 / 8,
            "precision_negative": 3 / 4,
            "recall_negative": 3 / 4,
            "f1_negative": 3 / 4,
            "precision_positive": 3 / 4,
            "recall_positive": 3 / 4,
            "f1_positive": 3 / 4,
            "macro_f1": 3 / 4,
        }
    )
    lopsided = scores(np.array([1, 1, 0], np.int64), np.array([1, 1, 1], np.int64))
    assert lopsided["f1_negative"] == 0
    assert [lopsided[f"{name}_positive"] for name in ("precision", "recall")] == pytest.approx([2 / 3, 1])


def test_training_learns_from_either_modality_and_gives_the_same_weights_every_time() -> None:
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(0, 2, (96,), generator=generator)
    shift = labels.to(torch.float32) * 2 - 1
    data = Embeddings(
        audio=torch.randn(64, 96, 4, generator=generator) + shift[:64, None, None],
        states=(torch.randn(96, 48, 384, generator=generator) + shift[:, None, None]).to(torch.float16),
        lengths=torch.randint(2, 12, (96,), generator=generator, dtype=torch.int32),
        labels=labels,
    )
    states: list[dict[str, Tensor]] = []
    for _ in range(2):
        torch.manual_seed(0)
        fresh = sentiment.assemble()
        pretrained = {name: value.clone() for name, value in fresh.state_dict().items() if not is_trained(name)}
        curve = fit(fresh, data, data.rows(range(64)), TrainSettings(epochs=4, batch=16))
        assert len(curve) == 4
        found = scores_by_subset(fresh, data.rows(range(64)))
        assert list(found) == ["audio+text", "audio", "text"]
        assert min(one["accuracy"] for one in found.values()) > 0.9
        assert all(torch.equal(value, fresh.state_dict()[name]) for name, value in pretrained.items())
        states.append(trained_state(fresh))
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_three_modalities_are_as_the_documents_describe(of_three: FusionModel) -> None:
    image, audio, text = (of_three.encoders[name] for name in three.MODALITIES)
    assert isinstance(image, three.ImageEncoder)
    assert isinstance(audio, three.AudioEncoder)
    assert isinstance(text, three.TextEncoder)
    assert [type(layer).__name__ for layer in image.blocks] == ["Conv2d", "ReLU", "MaxPool2d"] * 3
    assert (audio.first.bidirectional, audio.second.bidirectional) == (False, True)
    assert text.embedding.weight.shape == (50_000, 128)
    tensors = {m.name: m.tensors[0].shape for m in of_three.spec.modalities}
    assert tensors == {"image": (1, 224, 224, 3), "audio": (1, 32_000), "text": (1, 500)}


def test_seeded_weights_are_the_same_every_time_and_leave_the_seed_alone(of_three: FusionModel) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    again = three.build().state_dict()
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(value, again[name]) for name, value in of_three.state_dict().items())


@torch.inference_mode()
def test_three_modalities_take_the_made_up_data_whatever_is_absent(of_three: FusionModel) -> None:
    batch = collate(three.load().validation[:2], Preprocess(of_three))
    present = torch.tensor([[1.0, 1.0, 1.0], [0.0, 1.0, 0.0]])
    answers = of_three(batch.inputs, present)
    assert answers.shape == (2, 3)
    other = {**batch.inputs, "image.pixels": torch.zeros_like(batch.inputs["image.pixels"])}
    other["text.values"] = torch.ones(2, 500, dtype=torch.int32)
    assert torch.equal(of_three(other, present)[1], answers[1])
