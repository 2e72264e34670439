"""The reference model `assistant`: shapes, size, absence, padding, causality. Needs no package."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from edgefuse.errors import DataError
from edgefuse.models.assistant import fusion, pretrained
from edgefuse.models.assistant import model as assistant
from edgefuse.models.assistant.audio import AudioEncoder, MelFrontend
from edgefuse.models.assistant.matching import recall
from edgefuse.models.assistant.text import TextEncoder
from edgefuse.models.fusion import FusionModel
from edgefuse.models.reference.weights import load
from edgefuse.stages.explicit import split


@pytest.fixture(scope="module")
def model() -> FusionModel:
    torch.manual_seed(0)
    return assistant.assemble().eval()


def inputs(batch: int = 2) -> dict[str, Tensor]:
    """Return random tensors for every modality."""
    generator = torch.Generator().manual_seed(1)
    return {
        "image.pixels": torch.randint(0, 256, (batch, 160, 160, 3), dtype=torch.uint8, generator=generator),
        "audio.samples": torch.rand(batch, 32_000, generator=generator) - 0.5,
        "text.ids": torch.randint(2, 30_000, (batch, 24), dtype=torch.int32, generator=generator),
        "text.length": torch.tensor([5, 24][:batch], dtype=torch.int32),
    }


def test_model_has_the_promised_size(model: FusionModel) -> None:
    assert 25_000_000 <= sum(parameter.numel() for parameter in model.parameters()) <= 27_000_000
    assert sum(value.numel() for value in assistant.trained_state(model).values()) <= 2_000_000


@torch.inference_mode()
def test_forward_gives_logits_and_a_point_of_length_one(model: FusionModel) -> None:
    logits, point = model(inputs(), torch.ones(2, 3))
    assert logits.shape == (2, 6)
    assert point.shape == (2, 128)
    torch.testing.assert_close(point.norm(dim=1), torch.ones(2))


def test_stages_have_narrow_interfaces(model: FusionModel) -> None:
    stages = {stage.spec.name: stage.spec for stage in split(model)}
    assert list(stages) == [
        "image_frontend", "image_encoder", "audio_frontend", "audio_encoder", "text_encoder", "fusion",
    ]  # fmt: skip
    for name in fusion.MODALITIES:
        assert stages[f"{name}_encoder"].outputs[0].tensor.shape == (1, fusion.WIDTH)
    assert stages["audio_frontend"].outputs[0].tensor.shape == (1, 197, 32)


@torch.inference_mode()
def test_audio_steps_do_not_look_ahead(model: FusionModel) -> None:
    encoder = model.encoders["audio"]
    assert isinstance(encoder, AudioEncoder)
    frames = torch.randn(1, 197, 32)
    changed = frames.clone()
    changed[:, 76 + 8 * 3 :] += 1.0  # after the fourth window
    before, after = (encoder.convolutions(encoder.embed(x))[:, :, :4] for x in (frames, changed))
    torch.testing.assert_close(before, after, rtol=0, atol=1e-5)


@torch.inference_mode()
def test_mel_frontend_raises_what_is_faint_to_eighty_decibels_below_the_loudest() -> None:
    frontend = MelFrontend()
    time = torch.arange(512) / 512
    phase = 2 * torch.pi * torch.outer(torch.arange(257.0), time)
    frontend.load(torch.cos(phase).unsqueeze(1), torch.sin(phase).unsqueeze(1), torch.eye(257)[:, :32])
    tone = torch.sin(2 * torch.pi * 10 * 16_000 / 512 * torch.arange(16_000) / 16_000).unsqueeze(0)
    frames = frontend(torch.cat([tone, 0.5 * tone]))
    assert frames.shape == (2, 97, 32)
    assert int(frames[0, 5].argmax()) == 10
    torch.testing.assert_close(frames.amax(dim=(1, 2)) - frames.amin(dim=(1, 2)), torch.tensor([8.0, 8.0]))


def test_missing_weight_file_is_named(tmp_path: Path, model: FusionModel) -> None:
    with pytest.raises(DataError, match="weight file of 'assistant' is missing: got no file"):
        load(model, tmp_path / "none.safetensors")


def test_weights_of_another_model_are_refused(tmp_path: Path, model: FusionModel) -> None:
    save_file({"other": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(DataError, match=r"'other.safetensors' does not hold the weights of 'assistant': got Error"):
        load(model, tmp_path / "other.safetensors")
    state = {name: torch.zeros(3) for name in assistant.trained_state(model)}
    save_file(state, tmp_path / "wrong.safetensors")
    with pytest.raises(DataError, match=r"'wrong\.safetensors' does not hold the weights of 'assistant'"):
        load(model, tmp_path / "wrong.safetensors")


def test_minilm_takes_its_weights_under_other_names(monkeypatch: pytest.MonkeyPatch, model: FusionModel) -> None:
    generator = torch.Generator().manual_seed(2)
    sizes = {"query": (384, 384), "key": (384, 384), "value": (384, 384)}
    theirs = {"embeddings.word_embeddings.weight": torch.zeros(30_522, 384)}
    theirs |= {"embeddings.position_embeddings.weight": torch.randn(512, 384, generator=generator)}
    theirs |= {"embeddings.token_type_embeddings.weight": torch.ones(2, 384)}
    theirs |= {f"embeddings.LayerNorm.{kind}": torch.ones(384) for kind in ("weight", "bias")}
    for layer in range(6):
        for part, size in sizes.items():
            theirs[f"encoder.layer.{layer}.attention.self.{part}.weight"] = torch.randn(size, generator=generator)
            theirs[f"encoder.layer.{layer}.attention.self.{part}.bias"] = torch.zeros(384)
        for part, size in (("attention.output", (384, 384)), ("intermediate", (1536, 384)), ("output", (384, 1536))):
            theirs[f"encoder.layer.{layer}.{part}.dense.weight"] = torch.zeros(size)
            theirs[f"encoder.layer.{layer}.{part}.dense.bias"] = torch.zeros(size[0])
        for part in ("attention.output", "output"):
            theirs |= {f"encoder.layer.{layer}.{part}.LayerNorm.{kind}": torch.ones(384) for kind in ("weight", "bias")}
    monkeypatch.setattr(pretrained, "fetch", lambda *_: Path("unread"))
    monkeypatch.setattr(pretrained, "load_file", lambda _: theirs)
    encoder = TextEncoder(8, 24)
    pretrained.load_text(encoder)
    keys = encoder.backbone.state_dict()["layers.3.attention.qkv.weight"][384:768]
    torch.testing.assert_close(keys, theirs["encoder.layer.3.attention.self.key.weight"])
    positions = theirs["embeddings.position_embeddings.weight"][:24] + 1.0
    torch.testing.assert_close(encoder.backbone.positions.detach()[0], positions)


def test_recall_counts_the_nearest_and_the_five_nearest() -> None:
    gallery = np.eye(8)
    names = np.array([7, 6, 5, 4, 3, 2, 1, 0])
    queries = np.stack([gallery[2], gallery[2] + 0.5 * gallery[3], gallery[:7].sum(axis=0)])
    assert recall(queries, np.array([5, 4, 0]), gallery, names) == {"at_1": pytest.approx(1 / 3), "at_5": 2 / 3}
