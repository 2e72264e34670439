"""Log-mel frontends compute a factored Fourier transform in TFLite files, too; what is none stays as it is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from edgefuse.export.tflite.rewrites import rewrite
from edgefuse.export.tflite.target import TfliteTarget
from edgefuse.models.assistant.audio import BINS, MELS, WINDOW, MelFrontend
from edgefuse.models.digits.layers import LogMelFrontend
from edgefuse.registry import create
from edgefuse.runtime.backends.backend import SessionOptions
from edgefuse.stages.agreement import verify
from edgefuse.stages.examples import example_feeds
from tests.export.test_onnx_spectrum import TIGHT, changed, stage_of

aten = torch.ops.aten


def rewritten(module: nn.Module, samples: int) -> GraphModule:
    """Trace and rewrite a frontend, and check that it computes the same."""
    x = torch.randn(1, samples, generator=torch.Generator().manual_seed(0)) * 0.3
    graph = rewrite(torch.export.export(module.eval(), (x,), strict=False))
    torch.testing.assert_close(graph(x), module(x), atol=2e-5, rtol=2e-5)
    return graph


def largest_constant(graph: GraphModule) -> int:
    return max(int(getattr(graph, str(node.target)).numel()) for node in graph.graph.nodes if node.op == "get_attr")


def is_factored(graph: GraphModule) -> bool:
    return any(node.target is aten.bmm.default for node in graph.graph.nodes)


@pytest.mark.parametrize(
    ("window", "hop", "samples"),
    [(400, 320, 16_000), (400, 160, 4_000), (256, 256, 2_048), (64, 100, 1_000), (400, 320, 16_079), (96, 7, 300)],
)
def test_a_log_mel_frontend_is_factored(window: int, hop: int, samples: int) -> None:
    graph = rewritten(LogMelFrontend(window=window, hop=hop, mels=10), samples)
    assert is_factored(graph)
    assert largest_constant(graph) < window * (window + 2) / 2


@pytest.mark.parametrize("kind", ["one weight", "random weights", "too few bins"])
def test_weights_that_are_no_windowed_transform_stay_one_product(kind: str) -> None:
    assert not is_factored(rewritten(changed(kind), 1_024))


class Odd(nn.Module):
    """Almost the powers of a spectrum: halves that are none, a sum of other things, padding."""

    basis: Tensor
    filters: Tensor

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        source = LogMelFrontend(window=64, hop=32, mels=8)
        self.register_buffer("basis", source.basis)
        self.register_buffer("filters", source.filters)

    def forward(self, x: Tensor) -> Any:
        parts = nn.functional.conv1d(x.unsqueeze(1), self.basis, stride=32, padding=8 if self.kind == "padded" else 0)
        real, imaginary = parts[:, :33], parts[:, 32:65] if self.kind == "halves" else parts[:, 33:]
        second = real * imaginary if self.kind == "products" else imaginary * imaginary
        return torch.matmul((real * real + second).transpose(1, 2), self.filters)


@pytest.mark.parametrize("kind", ["padded", "halves", "products"])
def test_what_is_almost_a_power_spectrum_is_left_alone(kind: str) -> None:
    assert not is_factored(rewritten(Odd(kind), 640))


def test_the_file_of_a_frontend_says_what_torch_says_of_loud_and_of_faint_sound() -> None:
    phase = 2 * torch.pi * torch.outer(torch.arange(BINS), torch.arange(WINDOW)).double() / WINDOW
    window = torch.hann_window(WINDOW, dtype=torch.float64)
    frontend = MelFrontend()
    frontend.load(
        (torch.cos(phase) * window).float().unsqueeze(1),
        (-torch.sin(phase) * window).float().unsqueeze(1),
        torch.rand(BINS, MELS, generator=torch.Generator().manual_seed(0)),
    )
    stage = stage_of(frontend, 16_000, 97, MELS)
    lowered = TfliteTarget().lower(stage)
    assert len(lowered.data) < 4 * 2 * BINS * WINDOW / 3
    session = create("backends", "tflite").open(lowered.data, lowered.inputs, lowered.outputs, SessionOptions())
    feeds = example_feeds(stage, count=3, seed=2)
    faint = [{name: np.multiply(value, 1e-4, dtype=np.float32) for name, value in feed.items()} for feed in feeds]
    assert all(verify(stage, session, feed, TIGHT).ok for feed in (*feeds, *faint))
