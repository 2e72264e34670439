"""A modality that streams, taken apart: the stages of one step, held to a whole call."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from edgefuse.bundle.spec import Source
from edgefuse.bundle.streamed import chunks_of
from edgefuse.errors import ModelError
from edgefuse.stages.explicit import split
from edgefuse.stages.streaming import stepped, streams_of
from tests.decoders import generating
from tests.streaming import FRAMES, HOP, SAMPLES, STEPS, WINDOW, Listener, Windows, listening


def test_steps_are_stages_with_states() -> None:
    (name, (frontend, encoder)), *others = streams_of(split(listening())).items()
    assert name == "sound_encoder"
    assert not others
    assert (frontend.spec.name, encoder.spec.name) == ("sound_frontend_step", "sound_encoder_step")
    samples = Source(kind="modality", owner="sound", tensor="samples")
    assert [port.source for port in frontend.spec.inputs if port.source.kind == "modality"] == [samples]
    assert [(p.kind, p.initial) for p in frontend.spec.outputs] == [("feature", None), ("state", samples)]
    assert [port.tensor.shape for port in encoder.spec.inputs] == [(1, FRAMES // STEPS, 4), (1, 4, 2), (1, STEPS, 8)]
    chunks = chunks_of([frontend.spec, encoder.spec])
    assert (chunks.size, chunks.lead) == (Listener.chunk, WINDOW - HOP)
    assert chunks.window(SAMPLES) == STEPS


@pytest.mark.parametrize("windows", [1, 3])
def test_each_step_gives_the_feature_of_the_window_that_ends_there(windows: int) -> None:
    """This encoder forgets all but the window, up to the two frames before it that its convolution still sees."""
    model = listening()
    steps = streams_of(split(model))["sound_encoder"]
    count = WINDOW - HOP + windows * FRAMES * HOP
    values = np.random.default_rng(3).standard_normal((1, count)).astype(np.float32)

    given = [made["feature"] for _, made in stepped(steps, values)]
    assert len(given) == windows * STEPS
    encoder = model.encoders["sound"]
    assert isinstance(encoder, Listener)
    with torch.inference_mode():
        heard = encoder.convolution(encoder.frontend(torch.from_numpy(values)).transpose(1, 2))
        whole = encoder.head(heard[:, :, -FRAMES:].mean(dim=2))
    torch.testing.assert_close(torch.from_numpy(given[-1]), whole, rtol=0, atol=1e-5)


def test_a_model_without_a_step_has_none() -> None:
    assert streams_of(split(generating())) == {}


class _Forgetful(Listener):
    def step(self, chunk: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        feature, _, sums = super().step(chunk, *states)
        return feature, torch.zeros_like(states[0]), sums


class _Greedy(Listener):
    chunk = 2 * FRAMES * HOP

    def step(self, chunk: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        return super().step(chunk[:, -FRAMES:], *states)


class _Growing(Listener):
    def step(self, chunk: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        feature, past, sums = super().step(chunk, *states)
        return feature, torch.cat([past, past], dim=2), sums


class _Mute(Windows):
    def step(self, chunk: Tensor, tail: Tensor) -> tuple[Tensor, ...]:
        return (self(torch.cat([tail, chunk], dim=1)),)


class _Deaf(Listener):
    def __init__(self) -> None:
        super().__init__()
        self.frontend = _Mute()


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (_Forgetful, "do not give from reset what a whole call gives"),
        (_Greedy, "takes more than a whole call has"),
        (_Growing, "the state 'past' of a step of the stage 'sound_encoder' has another shape"),
        (_Deaf, "'sound_frontend_step' returns the wrong number of tensors"),
    ],
)
def test_a_step_that_is_not_what_it_should_be_is_refused(kind: type[Listener], said: str) -> None:
    with pytest.raises(ModelError) as caught:
        streams_of(split(listening(kind())))
    assert said in str(caught.value)
