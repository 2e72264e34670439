"""The sound of `digits` as a stream: its steps against a call over all that was heard."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor

from edgefuse.models.digits.encoders import CHUNK, FRAMES, HOP, LEFT_CONTEXT, AudioEncoder
from edgefuse.models.digits.layers import MASKED
from edgefuse.models.digits.model import build


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
