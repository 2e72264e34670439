"""The weights of `assistant`, pretrained and trained, do what they should; needs packages (100 MB and 161 MB)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from edgefuse.datasets import stamps
from edgefuse.datasets.packages import fetch
from edgefuse.errors import DataError
from edgefuse.models import assistant
from edgefuse.models.assistant import pretrained
from edgefuse.models.assistant.audio import AudioEncoder
from edgefuse.models.assistant.image import ImageEncoder
from edgefuse.models.assistant.text import TextEncoder
from edgefuse.models.assistant.training import accuracy_by_subset, embed
from edgefuse.models.fusion import FusionModel
from edgefuse.runtime.backends.onnx.api import onnxruntime
from edgefuse.runtime.preprocess import Preprocessor

FOLDER = Path(__file__).parents[2] / "examples" / "assistant"


@pytest.fixture(scope="module")
def model() -> FusionModel:
    try:
        return assistant.build(FOLDER / "assistant.safetensors")
    except DataError as error:
        pytest.skip(f"not checked: that the encoders equal what the packages hold, and the recorded accuracy: {error}")


@pytest.fixture(scope="module")
def items() -> stamps.StampItems:
    try:
        return stamps.items("test")
    except DataError as error:
        pytest.skip(f"not checked: the recorded accuracy of 'assistant' on its data: {error}")


def run_onnx(source: tuple[str, str, str, str], values: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> Tensor:
    session = onnxruntime.InferenceSession(fetch(*source).read_bytes(), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: values})[0])


@torch.inference_mode()
def test_audio_encoder_equals_the_published_onnx_files(model: FusionModel) -> None:
    encoder = model.encoders["audio"]
    assert isinstance(encoder, AudioEncoder)
    rng = np.random.default_rng(0)
    swell = np.linspace(0, 0.3, 32_000, dtype=np.float32)
    pcm = swell * rng.standard_normal((1, 32_000), dtype=np.float32)
    mel = run_onnx(pretrained.MEL, pcm * np.float32(32768))[:, 0] / 10 + 2
    torch.testing.assert_close(encoder.frontend(torch.from_numpy(pcm)), mel, rtol=0, atol=1e-4)

    windows = np.stack([mel[0, start : start + 76, :, None] for start in range(0, 197 - 75, 8)])
    expected = run_onnx(pretrained.SPEECH, windows)[:, 0, 0]
    torch.testing.assert_close(encoder.embed(mel)[0].T, expected, rtol=1e-4, atol=1e-3)


@torch.inference_mode()
def test_text_encoder_equals_a_plain_bert(model: FusionModel) -> None:
    encoder = model.encoders["text"]
    assert isinstance(encoder, TextEncoder)
    read = Preprocessor(model.spec.modality("text"), model.assets.__getitem__)
    sentences = ["A red apple.", "A European coin of 2 cents (0.02 €).", "tiger"]
    for sentence in sentences:
        tensors = {name: torch.from_numpy(np.asarray(value)) for name, value in read(sentence).items()}
        found = encoder.embed(tensors["text.ids"], tensors["text.length"])
        expected = plain_bert(tensors["text.ids"][0, : int(tensors["text.length"])].tolist())
        torch.testing.assert_close(found[0], expected, rtol=0, atol=1e-5)


def plain_bert(ids: Sequence[int]) -> Tensor:
    """Embed tokens as the paper says, out of the published file and torch's own attention."""
    state = load_file(fetch(*pretrained.MINILM))

    def norm(x: Tensor, name: str) -> Tensor:
        return functional.layer_norm(x, (384,), state[f"{name}.weight"], state[f"{name}.bias"], eps=1e-12)

    def linear(x: Tensor, name: str) -> Tensor:
        return functional.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    embeddings = "embeddings.{}_embeddings.weight"
    x = state[embeddings.format("word")][list(ids)] + state[embeddings.format("position")][: len(ids)]
    x = norm(x + state[embeddings.format("token_type")][0], "embeddings.LayerNorm")
    for layer in range(6):
        name = f"encoder.layer.{layer}"
        parts = [linear(x, f"{name}.attention.self.{part}") for part in ("query", "key", "value")]
        q, k, v = (part.reshape(len(ids), 12, 32).transpose(0, 1) for part in parts)
        mixed = functional.scaled_dot_product_attention(q, k, v).transpose(0, 1).reshape(len(ids), 384)
        x = norm(x + linear(mixed, f"{name}.attention.output.dense"), f"{name}.attention.output.LayerNorm")
        hidden = functional.gelu(linear(x, f"{name}.intermediate.dense"))
        x = norm(x + linear(hidden, f"{name}.output.dense"), f"{name}.output.LayerNorm")
    return x.mean(dim=0)


@torch.inference_mode()
def test_image_encoder_still_recognises_animals_of_imagenet(model: FusionModel, items: stamps.StampItems) -> None:
    encoder = model.encoders["image"]
    assert isinstance(encoder, ImageEncoder)
    classifier = torch.load(fetch(*pretrained.MOBILENET), map_location="cpu", weights_only=True)
    content = stamps.material()
    paths = [stamp.path for stamp in content.stamps]
    wanted = {"animals/mammals/equines/zebra.png": 340, "animals/mammals/cats/tiger.png": 292}
    for path, label in wanted.items():
        picture = content.pictures[paths.index(path)]
        alpha = picture[..., 3:] / 255.0
        on_white = np.rint(picture[..., :3] * alpha + 255.0 * (1 - alpha)).astype(np.uint8)
        embedding = encoder.embed(encoder.frontend(torch.from_numpy(on_white)[None]))
        scores = functional.linear(embedding, classifier["classifier.1.weight"], classifier["classifier.1.bias"])
        assert int(scores.argmax()) == label


def test_record_meets_what_the_model_promises() -> None:
    record = json.loads((FOLDER / "training.json").read_text())
    test = record["test"]
    assert len(test) == 7
    assert test["image+audio+text"] >= max(test["image"], test["audio"], test["text"])
    assert record["data"]["items"]["test"] >= 1000
    known = record["matching"]["known"]
    chance = 5 / record["data"]["stamps"]["known"]
    assert known["audio"]["at_5"] > 2 * chance
    assert known["text"]["at_5"] > 20 * chance
    assert (FOLDER / "assistant.safetensors").stat().st_size <= 10_000_000


def test_weights_reach_the_recorded_accuracy_on_part_of_the_test_split(
    model: FusionModel, items: stamps.StampItems
) -> None:
    record = json.loads((FOLDER / "training.json").read_text())
    found = accuracy_by_subset(model, embed(model, items, range(0, len(items), 12)))
    for subset, recorded in record["test"].items():
        assert found[subset] == pytest.approx(recorded, abs=0.13)
