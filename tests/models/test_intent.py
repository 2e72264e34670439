"""The reference model `intent`: what is absent does not matter, and a bundle answers as torch does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import edgefuse
from edgefuse.datasets import intent as data
from edgefuse.datasets.dialogue.speech import SAMPLES
from edgefuse.datasets.intent.requests import SLOTS
from edgefuse.errors import DataError
from edgefuse.models import intent
from edgefuse.models.fusion import FusionModel
from edgefuse.models.intent.training import Batch, Settings, begin, collate, fit, scores_by_subset
from edgefuse.models.reference.batches import Preprocess

SMALL = data.Settings(requests=(20, 4, 4, 4))


@pytest.fixture(scope="module")
def model() -> FusionModel:
    torch.manual_seed(0)
    built = intent.build()
    with torch.no_grad():
        for head in built.fusion.heads:  # type: ignore[union-attr]
            head.weight *= 8  # so that it says this and that
    return built


def given(seed: int, batch: int = 2) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "image.pixels": torch.randint(0, 256, (batch, 64, 64, 1), dtype=torch.uint8, generator=generator),
        "audio.samples": torch.randn(batch, SAMPLES, generator=generator) * 0.1,
        "text.ids": torch.randint(2, 60, (batch, 64), dtype=torch.int32, generator=generator),
        "text.length": torch.tensor([11, 64][:batch], dtype=torch.int32),
    }


def answered(model: FusionModel, inputs: Mapping[str, Tensor], present: Tensor) -> tuple[Tensor, ...]:
    with torch.inference_mode():
        return tuple(model(inputs, present))


def test_each_output_has_logits_of_its_classes(model: FusionModel) -> None:
    logits = answered(model, given(1), torch.ones(2, 3))
    assert [one.shape for one in logits] == [(2, len(labels)) for labels in SLOTS.values()]
    assert [output.name for output in model.spec.outputs] == list(SLOTS)


def test_what_is_absent_and_what_is_behind_the_text_do_not_matter(model: FusionModel) -> None:
    one, other = given(1), given(2)
    for column, name in enumerate(("image", "audio", "text")):
        present = torch.ones(2, 3)
        present[:, column] = 0
        mixed = {key: (other if key.startswith(name) else one)[key] for key in one}
        whole = answered(model, one, torch.ones(2, 3))
        for a, b, c in zip(answered(model, one, present), answered(model, mixed, present), whole, strict=True):
            torch.testing.assert_close(a, b, atol=0, rtol=0)
            assert (a != c).any()
    padded = one | {"text.ids": torch.cat([one["text.ids"][:, :11], other["text.ids"][:, 11:]], dim=1)}
    for a, b in zip(answered(model, one, torch.ones(2, 3)), answered(model, padded, torch.ones(2, 3)), strict=True):
        torch.testing.assert_close(a[0], b[0], atol=1e-5, rtol=1e-5)


def test_scores_count_each_output_and_whole_requests(model: FusionModel) -> None:
    inputs = given(3)
    targets = torch.stack([one.argmax(dim=1) for one in answered(model, inputs, torch.ones(2, 3))], dim=1)
    targets[1, 2] = (targets[1, 2] + 1) % len(SLOTS["domain"])
    score = scores_by_subset(model, [Batch(inputs, targets)])["image+audio+text"]
    assert score.outputs == {"intent": 1.0, "area": 1.0, "domain": 0.5, "value": 1.0}
    assert score.whole == 0.5


def test_a_model_begins_with_what_dialogue_knows_and_pictures_stay_so() -> None:
    fresh, examples = intent.build(), Path(__file__).parents[2] / "examples"
    begin(fresh, examples / "dialogue" / "dialogue.safetensors")
    known = load_file(examples / "dialogue" / "dialogue.safetensors")
    state = {name: value.clone() for name, value in fresh.state_dict().items()}
    assert all(torch.equal(value, known[name]) for name, value in state.items() if name.startswith("encoders."))
    torch.testing.assert_close(state["fusion.memory.kinds"], known["fusion.kinds"])
    try:
        fit(fresh, data.items("train", SMALL, count=10), Preprocess(fresh), Settings(epochs=2, batch=5))
    except DataError as error:
        pytest.skip(f"not checked: the training of 'intent': {error}")
    changed = {name.split(".")[1] for name, value in fresh.state_dict().items() if not torch.equal(value, state[name])}
    assert {"audio", "text", "heads", "memory"} <= changed
    assert "image" not in changed
    with pytest.raises(DataError, match=r"'digits\.safetensors' does not hold the weights of 'dialogue'"):
        begin(fresh, examples / "digits" / "digits.safetensors")
    with pytest.raises(DataError, match="the weights that 'intent' begins with are missing: got no file"):
        begin(fresh, examples / "none.safetensors")


def test_training_lowers_the_loss_and_is_the_same_twice() -> None:
    one, other = trained(), trained()
    assert one == other
    assert one[-1] < 0.8 * one[0]


def trained() -> list[float]:
    """Return the losses of a short training."""
    torch.manual_seed(0)
    losses: list[float] = []
    model = intent.build()
    try:
        samples, prepare = data.items("train", SMALL, count=80), Preprocess(model)
        assert collate(samples[:2], prepare).targets.shape == (2, len(SLOTS))
    except DataError as error:
        pytest.skip(f"not checked: the training of 'intent': {error}")
    fit(model, samples, prepare, Settings(epochs=4, batch=10), lambda epoch, loss, seconds: losses.append(loss))
    return losses


@pytest.mark.parametrize("target", ["onnx", pytest.param("tflite", marks=pytest.mark.exhaustive)])
def test_a_bundle_answers_as_torch_does(target: str, model: FusionModel, tmp_path: Path) -> None:
    out = tmp_path / "intent.edgefuse"
    edgefuse.export(model, model.spec, target, out=out, cache=tmp_path / "cache")
    rng, labels = np.random.default_rng(0), set()
    with edgefuse.load(out) as pipeline:
        for text in ("turn on the light here", "Licht aus", "mets la température à 21 dans le salon"):
            raw = {"image": rng.integers(0, 256, (64, 64), np.uint8), "text": text}
            prepared = pipeline.preprocess(**raw)
            inputs = {key: torch.from_numpy(np.asarray(value)) for key, value in prepared.values.items()}
            inputs |= {"audio.samples": torch.zeros(1, SAMPLES)}
            prediction = pipeline(**raw)
            for name, logits in zip(SLOTS, answered(model, inputs, torch.tensor([[1.0, 0, 1]])), strict=True):
                np.testing.assert_allclose(prediction.outputs[name][0], logits[0].numpy(), atol=1e-3)
            labels.add(prediction.label)
    assert len(labels) > 1
