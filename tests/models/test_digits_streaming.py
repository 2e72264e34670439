"""The sound of `digits` as a stream: its steps against a call over all that was heard."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

import edgefuse
from edgefuse.bundle.manifest import Tolerance
from edgefuse.bundle.spec import EmbeddingOutput, ModelSpec, audio
from edgefuse.compiler import export
from edgefuse.datasets.digits import load
from edgefuse.measure.agreement import agreement
from edgefuse.models import FusionModel
from edgefuse.models.digits.encoders import CHUNK, FRAMES, HOP, LEFT_CONTEXT, WIDTH, AudioEncoder
from edgefuse.models.digits.layers import MASKED
from edgefuse.models.digits.model import build
from edgefuse.runtime.incremental import Incremental

WEIGHTS = Path(__file__).parents[2] / "examples" / "digits" / "digits.safetensors"


def over(encoder: AudioEncoder, frames: Tensor) -> Tensor:
    """Return the feature of the last window of any number of frames: attention reaches 49 frames back, the mean 49."""
    longer = copy.deepcopy(encoder)
    step = torch.arange(frames.shape[1])
    behind = step[:, None] - step[None, :]
    longer.mask = torch.where((behind >= 0) & (behind <= LEFT_CONTEXT), 0.0, MASKED)
    feature: Tensor = longer.head(longer.norm(longer.encoded(frames))[:, -FRAMES:].mean(dim=1))
    return feature


def speech(samples: int) -> Tensor:
    rng = np.random.default_rng(1)
    loud = np.repeat(rng.uniform(0.01, 0.5, samples // 800 + 1), 800)[:samples]
    return torch.from_numpy((loud * rng.standard_normal(samples)).astype(np.float32)).unsqueeze(0)


@torch.inference_mode()
@pytest.mark.parametrize("steps", [7, 8, 29])
def test_a_step_gives_what_a_call_over_all_that_was_heard_gives(steps: int) -> None:
    torch.manual_seed(0)
    encoder = build().encoders["audio"]
    assert isinstance(encoder, AudioEncoder)
    frontend = encoder.frontend
    samples = speech(frontend.states["tail"][0] + steps * encoder.chunk)
    tail, later = samples[:, : frontend.states["tail"][0]], samples[:, frontend.states["tail"][0] :]
    states = [torch.zeros(1, *shape) for shape in encoder.states.values()]
    feature = torch.empty(0)
    for number in range(steps):
        frames, tail = frontend.step(later[:, number * encoder.chunk : (number + 1) * encoder.chunk], tail)
        feature, *states = encoder.step(frames, *states)
    whole = frontend(samples)
    assert whole.shape[1] == steps * CHUNK
    torch.testing.assert_close(feature, over(encoder, whole), rtol=0, atol=1e-4)
    if steps * CHUNK == FRAMES:
        torch.testing.assert_close(feature, encoder(whole), rtol=0, atol=1e-4)


def test_states_follow_the_layers() -> None:
    encoder = AudioEncoder()
    assert encoder.chunk == CHUNK * HOP
    assert FRAMES % CHUNK == 0
    del encoder.blocks[1]
    assert [name for name in encoder.states if name.startswith("keys")] == ["keys0"]


def bundle_of(target: str, folder: Path) -> tuple[AudioEncoder, Path]:
    """Return the sound encoder of `digits` with its weights, and a bundle of it alone, whose result is its feature."""
    encoder = build(WEIGHTS).encoders["audio"]
    assert isinstance(encoder, AudioEncoder)
    modality = audio("audio", sample_rate_hz=16_000, samples=16_000)
    spec = ModelSpec(name="sound", modalities=(modality,), outputs=(EmbeddingOutput(size=WIDTH),))
    model = FusionModel(spec, {"audio": encoder}, Alone()).eval()
    return encoder, export(model, spec, target, out=folder / "sound.edgefuse", cache=folder / "cache").bundle


class Alone(nn.Module):
    def forward(self, features: Mapping[str, Tensor], present: Tensor) -> Tensor:
        return features["audio"] * present


@pytest.mark.parametrize("target", ["onnx", pytest.param("tflite", marks=pytest.mark.exhaustive)])
def test_a_minute_in_any_split_is_a_call_over_the_minute(target: str, tmp_path: Path) -> None:
    """Chunks of 10 to 1,000 ms; at its end against torch over the minute, and a window after each reset against it."""
    encoder, path = bundle_of(target, tmp_path)
    minute, rng = speech(60 * 16_000), np.random.default_rng(7)
    with edgefuse.load(path) as pipeline, torch.inference_mode():
        heard = pipeline.incremental("audio")
        push(heard, minute[0].numpy(), rng)
        taken = (60 * 16_000 - 80) // encoder.chunk * CHUNK
        expected = over(encoder, encoder.frontend(minute)[:, :taken])
        assert heard.encoded is not None
        ((found,),) = (heard.encoded.values.values(),)
        assert agreement([({"": expected.numpy()}, {"": found})], Tolerance()).ok
        for second in range(0, 60, 6):
            window = minute[:, second * 16_000 : (second + 1) * 16_000]
            heard.reset()
            push(heard, window[0].numpy(), rng)
            answers = pipeline(audio=heard.encoded).outputs, pipeline(audio=window.numpy()).outputs
            assert agreement([answers], Tolerance()).ok


def push(heard: Incremental, samples: npt.NDArray[np.float32], rng: np.random.Generator) -> None:
    start = 0
    while start < len(samples):
        size = int(rng.integers(160, 16_001))
        heard.push(samples[start : start + size])
        start += size


SCHEMES = [("onnx", "static_wi8_ai8.u8"), ("onnx", "dynamic_wi8_af32"), ("tflite", "static_wi8_ai8.s8")]


@pytest.mark.exhaustive
@pytest.mark.parametrize(("target", "scheme"), SCHEMES)
def test_int8_steps_give_the_labels_of_int8_calls(target: str, scheme: str, tmp_path: Path) -> None:
    """Of 600 spoken digits, heard alone: at least 99 % of the labels are those of a whole call."""
    recipe, rng = WEIGHTS.with_name("recipe.toml"), np.random.default_rng(0)
    made = export(recipe, target, out=tmp_path / "digits.edgefuse", schemes={"audio_encoder": scheme}, cache=tmp_path)
    sounds = [sample.inputs["audio"] for sample in load().test if sample.inputs.get("audio") is not None][:600]
    with edgefuse.load(made.bundle) as pipeline:
        assert pipeline.manifest.streamed
        (streamed,) = pipeline.manifest.streamed
        assert streamed.rungs["fixed"]["audio_encoder_step"] == f"audio_encoder_step.{scheme}"
        heard, alike = pipeline.incremental("audio"), 0
        for sound in sounds:
            samples = pipeline.preprocess(audio=sound).values["audio.samples"]
            heard.reset()
            push(heard, np.asarray(samples[0], np.float32), rng)
            whole, stepped = (pipeline(audio=one).outputs["logits"] for one in (samples, heard.encoded))
            alike += int(whole.argmax() == stepped.argmax())
    assert len(sounds) == 600
    assert alike >= 0.99 * len(sounds)
