"""Fitting: weights land on the int8 grid, layers keep what they give, and files of all targets gain by it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from edgefuse.bundle.scheme import Scheme
from edgefuse.errors import QuantizeError
from edgefuse.export.onnx.target import OnnxTarget
from edgefuse.export.target import Target
from edgefuse.export.tflite.target import TfliteTarget
from edgefuse.quantize.onnx.quantizer import OnnxQuantizer
from edgefuse.quantize.quantizer import Quantizer
from edgefuse.quantize.tflite.quantizer import TfliteQuantizer
from edgefuse.quantize.torch.fitting import fit, rounded_in_turn
from edgefuse.runtime.backends.backend import Backend, SessionOptions
from edgefuse.runtime.backends.onnx.backend import OnnxBackend
from edgefuse.runtime.backends.tflite.backend import TfliteBackend
from edgefuse.stages.examples import example_feeds
from edgefuse.stages.running import run_torch
from edgefuse.stages.stage import FeedSource, TorchStage

CHAINS: dict[str, tuple[Target, Quantizer, Backend, Scheme]] = {
    "onnx": (OnnxTarget(), OnnxQuantizer(), OnnxBackend(), Scheme(name="static_wi8_ai8", activation="u8")),
    "tflite": (TfliteTarget(), TfliteQuantizer(), TfliteBackend(), Scheme(name="static_wi8_ai8", activation="s8")),
}


def feeds(stage: TorchStage) -> FeedSource:
    """Return plain grounds of many brightnesses with a little noise: pictures of things on paper."""
    rng = np.random.default_rng(0)
    port = stage.spec.inputs[0].tensor.name
    grounds = [rng.uniform(0.0, 4.0) + 0.02 * feed[port].astype(np.float32) for feed in example_feeds(stage, count=24)]
    return lambda: iter([{port: ground.astype(np.float32)} for ground in grounds])


def snr_db(reference: TorchStage, stage: TorchStage, target: str) -> float:
    """Return the signal-to-noise ratio of a stage's int8 file against another stage in torch."""
    lowering, quantizer, backend, scheme = CHAINS[target]
    file = quantizer.apply(lowering.lower(stage), scheme, feeds(stage))
    session = backend.open(file.data, file.inputs, file.outputs, SessionOptions())
    port = stage.spec.outputs[0].tensor.name
    expected = np.concatenate([run_torch(reference, feed)[port] for feed in feeds(stage)()])
    noise = np.concatenate([session.run(feed)[port] for feed in feeds(stage)()]) - expected
    return float(10 * np.log10(np.square(expected).sum() / np.square(noise).sum()))


@pytest.mark.parametrize("target", CHAINS)
def test_fitted_weights_bring_files_closer_to_float(edges: TorchStage, target: str) -> None:
    assert snr_db(edges, fit(edges, feeds(edges)), target) > snr_db(edges, edges, target) + 1.0


def test_weights_are_whole_steps_and_keep_their_scales(edges: TorchStage) -> None:
    fitted = fit(edges, feeds(edges))
    for before, after in zip(edges.module.modules(), fitted.module.modules(), strict=True):
        if isinstance(before, nn.Conv2d | nn.Linear):
            scale = before.weight.detach().flatten(1).abs().amax(dim=1) / 127.0
            steps = after.weight.detach().flatten(1) / scale[:, None]  # type: ignore[operator]
            assert torch.allclose(steps, steps.round(), atol=1e-3)
            assert torch.allclose(steps.abs().amax(dim=1), torch.full_like(scale, 127.0), atol=1e-3)


def test_the_stage_itself_stays_and_fitting_is_repeatable(edges: TorchStage) -> None:
    before = {name: value.clone() for name, value in edges.module.state_dict().items()}
    first, second = (fit(edges, feeds(edges)).module.state_dict() for _ in range(2))
    assert all(torch.equal(value, edges.module.state_dict()[name]) for name, value in before.items())
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_rounding_in_turn_costs_a_layer_less_than_rounding_each() -> None:
    torch.manual_seed(0)
    inputs = torch.randn(1, 48, 8, dtype=torch.float64) @ torch.randn(8, 500, dtype=torch.float64)
    weight = torch.randn(1, 5, 48, dtype=torch.float64)
    scale = weight.abs().amax(dim=2, keepdim=True) / 127.0
    nearest = (weight / scale).round() * scale
    fitted = rounded_in_turn(weight, inputs @ inputs.transpose(1, 2))
    lost = [float(((weight - rounded) @ inputs).square().sum()) for rounded in (nearest, fitted)]
    assert lost[1] < 0.2 * lost[0]


def test_a_sequence_layer_and_its_linear_layers_are_fitted(layer_stage: TorchStage) -> None:
    source: FeedSource = lambda: example_feeds(layer_stage, count=8)  # noqa: E731
    fitted = fit(layer_stage, source)
    changed = [
        name
        for name, value in layer_stage.module.state_dict().items()
        if not torch.equal(value, fitted.module.state_dict()[name])
    ]
    assert sum(name.endswith("weight") for name in changed) == len(changed) == 4


def test_nothing_to_fit_to_is_said(edges: TorchStage) -> None:
    with pytest.raises(QuantizeError, match="no weights to fit, or no samples to fit them to"):
        fit(edges, lambda: iter(()))
