"""Log-mel frontends compute a factored Fourier transform; convolutions that are none stay convolutions."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from edgefuse.bundle import spec
from edgefuse.bundle.manifest import Tolerance
from edgefuse.export.fourier import bin_transforms, factors, residue_transform, spread_filters
from edgefuse.export.onnx.target import OnnxTarget
from edgefuse.export.target import Lowered
from edgefuse.models.digits.layers import LogMelFrontend
from edgefuse.registry import create
from edgefuse.runtime.backends.backend import SessionOptions
from edgefuse.stages.agreement import verify
from edgefuse.stages.examples import example_feeds
from edgefuse.stages.explicit import split
from edgefuse.stages.stage import TorchStage

TIGHT = Tolerance(absolute=2e-5, relative=1e-5)


def stage_of(frontend: nn.Module, samples: int, frames: int, mels: int) -> TorchStage:
    class Sound(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.spec = spec.ModelSpec(
                name="sound",
                modalities=(spec.tensor("samples", shape=(1, samples)),),
                outputs=(spec.EmbeddingOutput(size=frames * mels),),
            )
            self.frontend = frontend

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.frontend(x)
            return y.flatten(1)

    return split(Sound().eval())[0]


def kinds(lowered: Lowered) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load_from_string(lowered.data).graph.node)


def agrees(stage: TorchStage, lowered: Lowered) -> bool:
    session = create("backends", "onnx").open(lowered.data, lowered.inputs, lowered.outputs, SessionOptions())
    return all(verify(stage, session, feeds, TIGHT).ok for feeds in example_feeds(stage, count=3, seed=2))


@pytest.mark.parametrize(
    ("window", "hop", "samples"),
    [(400, 320, 16_000), (400, 160, 4_000), (256, 256, 2_048), (64, 100, 1_000), (400, 320, 16_079)],
)
def test_a_log_mel_frontend_needs_no_convolution(window: int, hop: int, samples: int) -> None:
    frames = (samples - window) // hop + 1
    stage = stage_of(LogMelFrontend(window=window, hop=hop, mels=10), samples, frames, 10)
    lowered = OnnxTarget().lower(stage)
    assert kinds(lowered)["Conv"] == 0
    assert agrees(stage, lowered)


def test_the_weights_are_smaller_than_all_sines_and_cosines() -> None:
    stage = stage_of(LogMelFrontend(mels=40), 16_000, 49, 40)
    assert len(OnnxTarget().lower(stage).data) < 402 * 400 * 4 / 4


def changed(kind: str) -> LogMelFrontend:
    frontend = LogMelFrontend(window=64, hop=32, mels=8)
    if kind == "one weight":
        frontend.basis[5, 0, 7] += 0.01
    elif kind == "random weights":
        frontend.basis.copy_(torch.randn(frontend.basis.shape) * 0.1)
    elif kind == "too few bins":
        frontend.basis, frontend.filters, frontend.bins = frontend.basis[:64], frontend.filters[:32], 32
    return frontend


@pytest.mark.parametrize("kind", ["one weight", "random weights", "too few bins"])
def test_weights_that_are_no_windowed_transform_stay_a_convolution(kind: str) -> None:
    stage = stage_of(changed(kind), 1_024, 31, 8)
    lowered = OnnxTarget().lower(stage)
    assert kinds(lowered)["Conv"] == 1
    assert agrees(stage, lowered)


@pytest.mark.parametrize(("window", "hop", "samples", "frames"), [(80, 64, 80 + 64, 2), (400, 160, 8_400, 51)])
def test_samples_that_end_within_the_last_hop_need_no_convolution(
    window: int, hop: int, samples: int, frames: int
) -> None:
    stage = stage_of(LogMelFrontend(window=window, hop=hop, mels=8), samples, frames, 8)
    lowered = OnnxTarget().lower(stage)
    assert kinds(lowered)["Conv"] == 0
    assert agrees(stage, lowered)


class ShortTime(nn.Module):
    """Log-mel powers by `torch.stft`, as an encoder has them that takes samples: centred, mirrored at both ends."""

    window: Tensor
    filters: Tensor

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.register_buffer("window", torch.hann_window(400))
        self.register_buffer("filters", torch.rand(201, 20))

    def forward(self, x: Tensor) -> Tensor:
        found = torch.stft(x, 400, hop_length=160, window=self.window, return_complex=True)
        y: Tensor = torch.log((found.abs() ** 2).transpose(1, 2) @ self.filters + 1e-6)
        return y


def test_a_short_time_transform_of_torch_needs_no_convolution() -> None:
    stage = stage_of(ShortTime(), 8_000, 51, 20)
    lowered = OnnxTarget().lower(stage)
    assert not {"Conv", "STFT", "DFT"} & set(kinds(lowered))
    session = create("backends", "onnx").open(lowered.data, lowered.inputs, lowered.outputs, SessionOptions())
    tolerance = Tolerance(absolute=1e-4, relative=0.0)
    assert all(verify(stage, session, feeds, tolerance).ok for feeds in example_feeds(stage, count=3, seed=2))


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 12), st.integers(0, 12), st.integers(0, 1000))
def test_the_factored_powers_are_those_of_the_fft(outer: int, more: int, seed: int) -> None:
    inner = outer + more
    length = outer * inner
    signal = np.random.default_rng(seed).standard_normal(length)
    sums = (residue_transform(outer) @ signal.reshape(outer, inner)).reshape(-1, 1, 2 * inner)
    squares = np.square(sums @ bin_transforms(outer, inner)).ravel()
    powers = squares @ spread_filters(np.eye(length // 2 + 1), outer, inner)
    np.testing.assert_allclose(powers, np.abs(np.fft.rfft(signal)) ** 2, rtol=1e-9, atol=1e-9)


@given(st.integers(1, 5000))
def test_factors_multiply_to_the_length(length: int) -> None:
    smaller, larger = factors(length)
    assert smaller * larger == length
    assert smaller <= larger
