"""Sensitivity by layer and mixed precision, on stages with one layer that int8 cannot carry."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgefuse.bundle.manifest import Scheme
from edgefuse.bundle.spec import Source, StageInput, StageOutput, StageSpec, TensorSpec
from edgefuse.errors import QuantizeError
from edgefuse.export.target import Lowered
from edgefuse.quantize.quantizer import Quantizer
from edgefuse.quantize.sensitivity import SAMPLES, mixed, sensitivity
from edgefuse.registry import create
from edgefuse.runtime.backends.backend import Backend
from edgefuse.stages.stage import Feeds, TorchStage

Subject: TypeAlias = tuple[Quantizer, Backend, Lowered, Scheme]

TARGETS = {"onnx": "u8", "tflite": "s8"}


class Fragile(nn.Module):
    """Three layers; a channel that nothing reads swamps the range of what the second one takes."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(64, 64)
        self.second = nn.Linear(64, 64)
        self.third = nn.Linear(64, 64)
        self.gain = nn.Parameter(torch.ones(64))
        self.gain.data[7] = 300.0
        self.second.weight.data[:, 7] = 0.0

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.third(torch.tanh(self.second(torch.tanh(self.first(x)) * self.gain)))
        return y


def feeds(count: int = 20) -> Iterator[Feeds]:
    values = np.random.default_rng(0)
    for _ in range(count):
        yield {"x": values.standard_normal((1, 64), np.float32)}


@pytest.fixture(scope="module")
def stage() -> TorchStage:
    torch.manual_seed(0)
    x = TensorSpec(name="x", shape=(1, 64))
    spec = StageSpec(
        name="fragile",
        role="encoder",
        inputs=(StageInput(tensor=x, source=Source(kind="modality", owner="m", tensor="x")),),
        outputs=(StageOutput(tensor=TensorSpec(name="y", shape=(1, 64))),),
    )
    return TorchStage(spec, Fragile().eval())


@pytest.fixture(params=TARGETS, scope="module")
def subject(request: pytest.FixtureRequest, stage: TorchStage) -> Subject:
    name = request.param
    scheme = Scheme(name="static_wi8_ai8", activation=TARGETS[name])  # type: ignore[arg-type]
    return create("quantizers", name), create("backends", name), create("targets", name).lower(stage), scheme


def test_the_fragile_layer_is_found(subject: Subject) -> None:
    quantizer, backend, lowered, scheme = subject
    found = sensitivity(quantizer, backend, lowered, scheme, feeds)
    layers = quantizer.layers(lowered, scheme)
    assert len(layers) == 3
    assert {item.layer for item in found} == set(layers)
    assert found[0].layer == layers[1]
    assert found[0].snr_db < found[1].snr_db - 10.0


def test_the_fewest_layers_stay_float_that_gain_what_is_asked_for(subject: Subject) -> None:
    quantizer, backend, lowered, scheme = subject
    (result,) = mixed(quantizer, backend, lowered, scheme, feeds, [10.0])
    assert result.snr_db >= result.whole_db + 10.0
    (layer,) = result.floats
    assert layer.layer == quantizer.layers(lowered, scheme)[1]
    assert f"at the stage's output, whose goal is {result.whole_db + 10.0:.1f} dB" in layer.reason
    assert result.scheme.exclude == (layer.layer,)
    assert layer.layer not in quantizer.layers(lowered, result.scheme)


def test_each_gain_has_a_mixed_scheme_once_and_those_out_of_reach_none(subject: Subject) -> None:
    quantizer, backend, lowered, scheme = subject
    (alone,) = mixed(quantizer, backend, lowered, scheme, feeds, [10.0])
    more_db = alone.snr_db - alone.whole_db + 0.5
    first, second = mixed(quantizer, backend, lowered, scheme, feeds, [9.0, 10.0, more_db, 500.0])
    assert first.scheme == alone.scheme
    assert len(second.floats) == 2
    assert second.snr_db >= second.whole_db + more_db
    assert mixed(quantizer, backend, lowered, scheme, feeds, [500.0]) == ()


def test_a_handful_of_feeds_is_read(subject: Subject) -> None:
    quantizer, backend, lowered, scheme = subject
    read = 0

    def endless() -> Iterator[Feeds]:
        nonlocal read
        for feed in feeds(10_000):
            read += 1
            yield feed

    sensitivity(quantizer, backend, lowered, scheme, endless)
    assert read == SAMPLES


def test_no_feeds_are_refused(subject: Subject) -> None:
    with pytest.raises(QuantizeError, match="sensitivity has no feeds to measure on"):
        sensitivity(*subject, lambda: iter(()))
