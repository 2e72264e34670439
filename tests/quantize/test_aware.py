"""Training through the rounding: files of all targets gain by it, weights stay on their grid, nothing else moves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from edgefuse.bundle.manifest import Scheme
from edgefuse.errors import QuantizeError
from edgefuse.export.onnx.target import OnnxTarget
from edgefuse.export.target import Target
from edgefuse.export.tflite.target import TfliteTarget
from edgefuse.quantize.onnx.quantizer import OnnxQuantizer
from edgefuse.quantize.quantizer import Quantizer
from edgefuse.quantize.tflite.quantizer import TfliteQuantizer
from edgefuse.quantize.torch.aware import AwareSettings, train
from edgefuse.quantize.torch.fitting import fit
from edgefuse.runtime.backends.backend import Backend, SessionOptions
from edgefuse.runtime.backends.onnx import OnnxBackend
from edgefuse.runtime.backends.tflite import TfliteBackend
from edgefuse.stages.examples import example_feeds, run_torch
from edgefuse.stages.stage import FeedSource, TorchStage

U8, S8 = (Scheme(name="static_wi8_ai8", activation=sign, calibrator="mse") for sign in ("u8", "s8"))
CHAINS: dict[str, tuple[Target, Quantizer, Backend, Scheme]] = {
    "onnx": (OnnxTarget(), OnnxQuantizer(), OnnxBackend(), U8),
    "tflite": (TfliteTarget(), TfliteQuantizer(), TfliteBackend(), S8),
}
SHORT = AwareSettings(steps=40, learning_rate=3e-3, interval=20)


def grounds(stage: TorchStage, seed: int, count: int) -> FeedSource:
    """Return plain grounds of many brightnesses with a little noise."""
    rng = np.random.default_rng(seed)
    port = stage.spec.inputs[0].tensor.name
    feeds = [
        {port: (rng.uniform(0.0, 4.0) + 0.02 * feed[port].astype(np.float32)).astype(np.float32)}
        for feed in example_feeds(stage, count=count, seed=seed)
    ]
    return lambda: iter(feeds)


@pytest.fixture(scope="module")
def trained(edges: TorchStage) -> TorchStage:
    return train(edges, edges, grounds(edges, 0, 24), grounds(edges, 1, 64), SHORT)


def snr_db(reference: TorchStage, stage: TorchStage, target: str) -> float:
    """Return the signal-to-noise ratio of a stage's int8 file, on feeds that nothing has seen before."""
    lowering, quantizer, backend, scheme = CHAINS[target]
    file = quantizer.apply(lowering.lower(stage), scheme, grounds(reference, 0, 24))
    session = backend.open(file.data, file.inputs, file.outputs, SessionOptions())
    port, feeds = stage.spec.outputs[0].tensor.name, list(grounds(reference, 2, 32)())
    expected = np.concatenate([run_torch(reference, feed)[port] for feed in feeds])
    noise = np.concatenate([session.run(feed)[port] for feed in feeds]) - expected
    return float(10 * np.log10(np.square(expected).sum() / np.square(noise).sum()))


@pytest.mark.parametrize("target", CHAINS)
def test_training_brings_files_closer_to_float(edges: TorchStage, trained: TorchStage, target: str) -> None:
    assert snr_db(edges, trained, target) > snr_db(edges, edges, target) + 1.5


def test_weights_end_as_whole_steps_of_unchanged_scales(edges: TorchStage, trained: TorchStage) -> None:
    for before, after in zip(edges.module.modules(), trained.module.modules(), strict=True):
        if isinstance(before, nn.Conv2d | nn.Linear):
            scale = before.weight.detach().flatten(1).abs().amax(dim=1) / 127.0
            steps = after.weight.detach().flatten(1) / scale[:, None]  # type: ignore[operator]
            assert torch.allclose(steps, steps.round(), atol=1e-3)
            assert torch.allclose(steps.abs().amax(dim=1), torch.full_like(scale, 127.0), atol=1e-3)


def test_biases_and_norms_move_and_fitted_weights_stay(edges: TorchStage) -> None:
    calibration, told = grounds(edges, 0, 24), list[str]()
    fitted = fit(edges, calibration)
    before = {name: value.clone() for name, value in fitted.module.state_dict().items()}
    settings = replace(SHORT, steps=4, interval=2, learning_rate=1e-5)
    after = train(fitted, edges, calibration, grounds(edges, 1, 8), settings, lambda *step: told.append(step[2]))
    assert all(torch.equal(value, fitted.module.state_dict()[name]) for name, value in before.items())
    for name, value in after.module.named_parameters():
        if value.ndim > 1:
            assert torch.allclose(value, before[name], rtol=1e-5, atol=1e-7)
    assert len(told) == 4
    assert all(line.startswith("train model for int8") and line.endswith("dB so far") for line in told)


def test_training_is_repeatable_and_ends_early(edges: TorchStage, trained: TorchStage) -> None:
    calibration, samples = grounds(edges, 0, 24), grounds(edges, 1, 64)
    again = train(edges, edges, calibration, samples, SHORT).module.state_dict()
    assert all(torch.equal(value, again[name]) for name, value in trained.module.state_dict().items())
    steps: list[int] = []
    lost = replace(SHORT, learning_rate=3.0, interval=2, patience=1)
    kept = train(edges, edges, calibration, samples, lost, lambda done, _total, _what: steps.append(done))
    assert len(steps) == 2
    assert torch.equal(kept.module.get_parameter("head.bias"), edges.module.get_parameter("head.bias"))


def test_a_stage_with_lengths_and_a_table_trains_on_feeds_of_many_shapes(tokens_stage: TorchStage) -> None:
    source: FeedSource = lambda: example_feeds(tokens_stage, count=6)  # noqa: E731
    settings = AwareSettings(steps=4, batch=3, interval=2, learning_rate=1e-4)
    after = train(tokens_stage, tokens_stage, source, source, settings).module
    assert torch.equal(after.get_parameter("table.weight"), tokens_stage.module.get_parameter("table.weight"))
    assert not torch.equal(after.get_parameter("qkv.weight"), tokens_stage.module.get_parameter("qkv.weight"))


def test_nothing_to_train_on_is_said(edges: TorchStage) -> None:
    with pytest.raises(QuantizeError, match=r"no samples to train it on.*leave it out of \[quantize\] aware"):
        train(edges, edges, grounds(edges, 0, 2), lambda: iter(()))
