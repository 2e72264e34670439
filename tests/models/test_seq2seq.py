"""The reference model `seq2seq`: what counts and what does not. Needs no package."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from edgefuse.datasets.sequence.words import END
from edgefuse.errors import DataError
from edgefuse.models import FusionModel, seq2seq
from edgefuse.models.seq2seq.training import FILLING, Clips, answer, answered
from edgefuse.stages.found import find


@pytest.fixture(scope="module")
def model() -> FusionModel:
    torch.manual_seed(0)
    return seq2seq.build()


def inputs(batch: int = 3) -> dict[str, Tensor]:
    """Return random inputs: three clips of 5, 8 and 3 frames."""
    generator = torch.Generator().manual_seed(1)
    length = torch.tensor([5, 8, 3][:batch], dtype=torch.int32)
    return {
        "video.frames": torch.randint(0, 256, (batch, 8, 32, 32, 1), dtype=torch.uint8, generator=generator),
        "video.length": length,
        "text.ids": torch.randint(2, 20, (batch, 8), dtype=torch.int32, generator=generator),
        "text.length": length,
    }


TOKENS = torch.randint(2, 32, (3, 9), generator=torch.Generator().manual_seed(2))


@torch.inference_mode()
def test_it_is_taken_apart_into_frames_words_their_fusion_and_a_step(model: FusionModel) -> None:
    found = find(model)
    assert [(stage.spec.name, stage.spec.role) for stage in found.stages] == [
        ("video_frontend", "frontend"),
        ("video_encoder", "encoder"),
        ("text_encoder", "encoder"),
        ("fusion", "fusion"),
        ("decoder", "decoder"),
    ]
    logits = model(inputs(), torch.ones(3, 2), TOKENS)
    assert isinstance(logits, Tensor)
    assert logits.shape == (3, 9, 32)


@torch.inference_mode()
def test_what_follows_a_clip_or_a_text_does_not_matter(model: FusionModel) -> None:
    given = inputs()
    whole = model(given, torch.ones(3, 2), TOKENS)
    padded = {name: value.clone() for name, value in given.items()}
    for row, length in enumerate(given["video.length"].tolist()):
        padded["video.frames"][row, length:] = 0
        padded["text.ids"][row, length:] = 0
    torch.testing.assert_close(model(padded, torch.ones(3, 2), TOKENS), whole, rtol=0, atol=1e-5)


@torch.inference_mode()
def test_an_answer_depends_on_its_frame_its_word_and_the_answers_before(model: FusionModel) -> None:
    given = inputs()
    whole = model(given, torch.ones(3, 2), TOKENS)
    assert isinstance(whole, Tensor)
    for name in ("video.frames", "text.ids"):
        changed = {key: value.clone() for key, value in given.items()}
        changed[name][:, 2] = 7
        other = model(changed, torch.ones(3, 2), TOKENS)
        assert isinstance(other, Tensor)
        torch.testing.assert_close(other[:, :2], whole[:, :2], rtol=0, atol=1e-5)  # nothing before it changes
        assert (other[:, 2] - whole[:, 2]).abs().amax(dim=1).min() > 1e-4
    tokens = TOKENS.clone()
    tokens[:, 1] = 9
    other = model(given, torch.ones(3, 2), tokens)
    assert isinstance(other, Tensor)
    torch.testing.assert_close(other[:, :2], whole[:, :2], rtol=0, atol=0)
    assert (other[:, 2] - whole[:, 2]).abs().amax(dim=1).min() > 1e-4


@torch.inference_mode()
def test_training_answers_as_the_model_does(model: FusionModel) -> None:
    given = inputs()
    targets = TOKENS.clone()
    targets[0, 5], targets[0, 6:] = END, FILLING
    clips = Clips(model.encode("video", given), given["text.ids"], given["text.length"], targets)
    torch.testing.assert_close(answer(model, clips, TOKENS), model(given, torch.ones(3, 2), TOKENS))
    torch.testing.assert_close(answer(model, clips), model(given, torch.ones(3, 2)))
    found = answered(model, clips)
    logits = model(given, torch.ones(3, 2), TOKENS)
    assert isinstance(logits, Tensor)
    right = logits.argmax(dim=2) == targets
    assert found.accuracy == pytest.approx(float(right.sum()) / 24)
    assert found.wanted[0] == targets[0, :5].tolist()
    assert not clips.without("video").seen.any()
    assert not clips.without("text").ids.any()
    assert clips.without("") is clips


def test_weights_that_are_missing_or_another_models_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the weight file of 'seq2seq' is missing"):
        seq2seq.build(tmp_path / "none.safetensors")
    save_file({"other": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(DataError, match=r"'other.safetensors' does not hold the weights of 'seq2seq'"):
        seq2seq.build(tmp_path / "other.safetensors")
