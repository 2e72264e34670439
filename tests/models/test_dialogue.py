"""The reference model `dialogue`: one by one or all at once, its steps say the same; what is absent does not matter."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import edgefuse
from edgefuse.datasets import dialogue as data
from edgefuse.datasets.dialogue.items import START, STEPS, labels
from edgefuse.datasets.dialogue.speech import SAMPLES
from edgefuse.errors import DataError
from edgefuse.models import dialogue
from edgefuse.models.dialogue.decoder import TransformerDecoder
from edgefuse.models.dialogue.training import IGNORED, Batch, Settings, collate, decoded, fit, scores_by_subset
from edgefuse.models.fusion import FusionModel
from edgefuse.models.reference.batches import Preprocess

SMALL = data.Settings(commands=(20, 4, 4, 4))


@pytest.fixture(scope="module")
def model() -> FusionModel:
    torch.manual_seed(0)
    try:
        built = dialogue.build()
    except DataError as error:
        pytest.skip(f"not checked: the model 'dialogue': {error}")
    with torch.no_grad():
        assert isinstance(built.decoder, TransformerDecoder)
        built.decoder.vocabulary.weight *= 8  # so that it says this and that
    return built


def given(seed: int, batch: int = 2) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "image.pixels": torch.randint(0, 256, (batch, 64, 64, 1), dtype=torch.uint8, generator=generator),
        "audio.samples": torch.randn(batch, SAMPLES, generator=generator) * 0.1,
        "text.ids": torch.randint(2, 60, (batch, 64), dtype=torch.int32, generator=generator),
        "text.length": torch.tensor([11, 64][:batch], dtype=torch.int32),
    }


def answered(model: FusionModel, inputs: Mapping[str, Tensor], present: Tensor, tokens: Tensor | None = None) -> Tensor:
    with torch.inference_mode():
        return torch.as_tensor(model(inputs, present, tokens))


def test_all_steps_at_once_are_those_one_by_one(model: FusionModel) -> None:
    inputs, present = given(1), torch.tensor([[1.0, 0, 1], [1, 1, 1]])
    right = torch.randint(2, len(labels()), (2, STEPS))
    before = torch.cat([torch.full((2, 1), START), right[:, :-1]], dim=1)
    with torch.inference_mode():
        features = {name: model.encode(name, inputs) for name in model.encoders}
        together = decoded(model, features, present, before)
    torch.testing.assert_close(together, answered(model, inputs, present, right), atol=1e-4, rtol=1e-4)


def test_what_is_absent_and_what_is_behind_the_text_do_not_matter(model: FusionModel) -> None:
    one, other = given(1), given(2)
    for column, name in enumerate(("image", "audio", "text")):
        present = torch.ones(2, 3)
        present[:, column] = 0
        mixed = {key: (other if key.startswith(name) else one)[key] for key in one}
        torch.testing.assert_close(answered(model, one, present), answered(model, mixed, present), atol=0, rtol=0)
    padded = one | {"text.ids": torch.cat([one["text.ids"][:, :11], other["text.ids"][:, 11:]], dim=1)}
    both = torch.ones(2, 3)
    torch.testing.assert_close(answered(model, one, both)[0], answered(model, padded, both)[0], atol=1e-6, rtol=1e-6)


def test_scores_count_tokens_up_to_the_end_and_whole_replies(model: FusionModel) -> None:
    inputs, present = given(3), torch.ones(2, 3)
    said = answered(model, inputs, present).argmax(dim=2)
    targets = said.clone()
    targets[0, 5:] = IGNORED  # a short one, right as a whole
    targets[1, 2] = (said[1, 2] + 1) % len(labels())
    before = torch.cat([torch.full((2, 1), START), targets[:, :-1].clamp(min=0)], dim=1)
    before[1, 3:] = said[1, 2:-1]
    score = scores_by_subset(model, [Batch(inputs, before, targets)])["image+audio+text"]
    assert score.tokens == pytest.approx((5 + STEPS - 1) / (5 + STEPS))
    assert score.replies == 0.5


def test_training_lowers_the_loss_and_is_the_same_twice() -> None:
    one, other = trained(), trained()
    assert one == other
    assert one[-1] < 0.8 * one[0]


def trained() -> list[float]:
    """Return the losses of a short training."""
    torch.manual_seed(0)
    losses: list[float] = []
    try:
        model = dialogue.build()
        samples, prepare = data.items("train", SMALL, count=80), Preprocess(model)
        assert collate(samples[:2], prepare).targets.shape == (2, STEPS)
    except DataError as error:
        pytest.skip(f"not checked: the training of 'dialogue': {error}")
    fit(model, samples, prepare, Settings(epochs=4, batch=10), lambda epoch, loss, seconds: losses.append(loss))
    return losses


@pytest.mark.parametrize("target", ["onnx", pytest.param("tflite", marks=pytest.mark.exhaustive)])
def test_a_bundle_replies_as_torch_does(target: str, model: FusionModel, tmp_path: Path) -> None:
    out = tmp_path / "dialogue.edgefuse"
    edgefuse.export(model, model.spec, target, out=out, cache=tmp_path / "cache")
    rng, texts = np.random.default_rng(0), set()
    with edgefuse.load(out) as pipeline:
        for text in ("turn on the light here", "Licht aus", "mets la température à 21 dans le salon"):
            raw = {"image": rng.integers(0, 256, (64, 64), np.uint8), "text": text}
            prepared = pipeline.preprocess(**raw)
            inputs = {key: torch.from_numpy(np.asarray(value)) for key, value in prepared.values.items()}
            inputs |= {"audio.samples": torch.zeros(1, SAMPLES)}
            logits = answered(model, inputs, torch.tensor([[1.0, 0, 1]]))[0]
            prediction = pipeline(**raw)
            assert prediction.text == model.spec.outputs[0].text(logits.argmax(dim=1).tolist())  # type: ignore[union-attr]
            texts.add(prediction.text)
    assert len(texts) > 1
