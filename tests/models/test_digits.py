"""The reference model `digits`: shapes, size, absence, padding, causality, lowering."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from edgefuse.errors import DataError
from edgefuse.models.digits import encoders
from edgefuse.models.digits import model as digits
from edgefuse.models.fusion import FusionModel


@pytest.fixture(scope="module")
def model() -> FusionModel:
    torch.manual_seed(0)
    return digits.build()


def inputs(batch: int = 2) -> dict[str, Tensor]:
    """Return random tensors for every modality."""
    generator = torch.Generator().manual_seed(1)
    return {
        "image.pixels": torch.randint(0, 256, (batch, 64, 64, 1), dtype=torch.uint8, generator=generator),
        "audio.samples": torch.rand(batch, 16_000, generator=generator) - 0.5,
        "text.ids": torch.randint(2, 60, (batch, 24), dtype=torch.int32, generator=generator),
        "text.length": torch.tensor([5, 24][:batch], dtype=torch.int32),
    }


def test_model_has_the_promised_size(model: FusionModel) -> None:
    count = sum(parameter.numel() for parameter in model.parameters())
    assert 2_000_000 <= count <= 2_400_000


@torch.inference_mode()
def test_forward_gives_one_row_of_logits_per_item(model: FusionModel) -> None:
    logits = model(inputs(), torch.ones(2, 3))
    assert logits.shape == (2, 10)
    assert torch.isfinite(logits).all()


@torch.inference_mode()
def test_frontends_give_normalised_pixels_and_log_mel_frames(model: FusionModel) -> None:
    given = inputs()
    pixels = model.encoders["image"].get_submodule("frontend")(given["image.pixels"])
    frames = model.encoders["audio"].get_submodule("frontend")(given["audio.samples"])
    assert pixels.shape == (2, 1, 64, 64)
    assert float(pixels.abs().max()) <= 1.0
    assert frames.shape == (2, encoders.FRAMES, encoders.MELS)


@torch.inference_mode()
def test_log_mel_peaks_at_the_frequency_of_a_tone(model: FusionModel) -> None:
    tone = torch.sin(2 * torch.pi * 1000 * torch.arange(16_000) / 16_000).unsqueeze(0)
    frames = model.encoders["audio"].get_submodule("frontend")(tone)
    band = int(frames[0, 20].argmax())
    mel_per_band = 2595 * torch.log10(torch.tensor(1 + 8000 / 700)) / (encoders.MELS + 1)
    expected = 2595 * torch.log10(torch.tensor(1 + 1000 / 700)) / mel_per_band - 1
    assert abs(band - float(expected)) <= 1


@torch.inference_mode()
def test_audio_frames_do_not_look_ahead(model: FusionModel) -> None:
    encoder = model.encoders["audio"]
    assert isinstance(encoder, encoders.AudioEncoder)
    frames = torch.randn(1, encoders.FRAMES, encoders.MELS)
    changed = frames.clone()
    changed[:, 30:] += 1.0

    torch.testing.assert_close(encoder.encoded(frames)[:, :30], encoder.encoded(changed)[:, :30], rtol=0, atol=1e-5)


def test_every_stage_goes_through_torch_export(model: FusionModel) -> None:
    given = inputs(1)
    stages: list[tuple[torch.nn.Module, tuple[object, ...]]] = [
        (model.encoders["image"].get_submodule("frontend"), (given["image.pixels"],)),
        (model.encoders["audio"].get_submodule("frontend"), (given["audio.samples"],)),
        (model.encoders["image"], (torch.randn(1, 1, 64, 64),)),
        (model.encoders["audio"], (torch.randn(1, encoders.FRAMES, encoders.MELS),)),
        (model.encoders["text"], (given["text.ids"], given["text.length"])),
        (model.fusion, ({name: torch.randn(1, encoders.WIDTH) for name in encoders.MODALITIES}, torch.ones(1, 3))),
    ]
    for module, arguments in stages:
        program = torch.export.export(module, arguments)
        torch.testing.assert_close(program.module()(*arguments), module(*arguments))


def test_missing_weight_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="weight file of 'digits' is missing: got no file"):
        digits.build(tmp_path / "none.safetensors")
