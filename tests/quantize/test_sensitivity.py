"""Sensitivity by layer and mixed precision, on stages with one layer that int8 cannot carry."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TypeAlias

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgefuse.bundle.manifest import Tolerance
from edgefuse.bundle.scheme import Scheme
from edgefuse.bundle.spec import Source, StageInput, StageOutput, StageSpec, TensorSpec
from edgefuse.errors import QuantizeError
from edgefuse.export.target import Lowered
from edgefuse.measure.agreement import agreement
from edgefuse.quantize.quantizer import Quantizer
from edgefuse.quantize.sensitivity import SAMPLES, mixed
from edgefuse.registry import create
from edgefuse.runtime.backends.backend import Backend, SessionOptions
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


def test_the_fragile_layer_stays_float_where_more_is_asked_for(subject: Subject) -> None:
    quantizer, backend, lowered, scheme = subject
    layers = quantizer.layers(lowered, scheme)
    assert len(layers) == 3
    (alone,) = mixed(quantizer, backend, lowered, scheme, feeds, [10.0])
    assert alone.exclude == (layers[1],)
    assert quantizer.layers(lowered, alone) == (layers[0], layers[2])
    whole, partly = (ratio_db(subject, one) for one in (scheme, alone))
    assert partly >= whole + 10.0


def test_each_gain_has_a_scheme_once_and_those_out_of_reach_none(subject: Subject) -> None:
    quantizer, backend, lowered, scheme = subject
    (alone,) = mixed(quantizer, backend, lowered, scheme, feeds, [10.0])
    more_db = ratio_db(subject, alone) - ratio_db(subject, scheme) + 0.5
    first, second = mixed(quantizer, backend, lowered, scheme, feeds, [9.0, 10.0, more_db, 500.0])
    assert first == alone
    assert len(second.exclude) == 2
    assert ratio_db(subject, second) >= ratio_db(subject, scheme) + more_db
    assert mixed(quantizer, backend, lowered, scheme, feeds, [500.0]) == ()


def ratio_db(subject: Subject, scheme: Scheme) -> float:
    """Return the signal-to-noise ratio of a scheme over the feeds that `mixed` reads."""
    quantizer, backend, lowered, _ = subject
    quantized = quantizer.apply(lowered, scheme, lambda: islice(feeds(), SAMPLES))
    answers = [
        [session.run(feed) for feed in islice(feeds(), SAMPLES)]
        for file in (lowered, quantized)
        for session in [backend.open(file.data, file.inputs, file.outputs, SessionOptions())]
    ]
    return agreement(zip(*answers, strict=True), Tolerance()).snr_db


def test_a_handful_of_feeds_is_read(subject: Subject) -> None:
    quantizer, backend, lowered, scheme = subject
    read = 0

    def endless() -> Iterator[Feeds]:
        nonlocal read
        for feed in feeds(10_000):
            read += 1
            yield feed

    mixed(quantizer, backend, lowered, scheme, endless, [10.0])
    assert read == SAMPLES


def test_no_feeds_are_refused(subject: Subject) -> None:
    with pytest.raises(QuantizeError, match="sensitivity has no feeds to measure on"):
        mixed(*subject, lambda: iter(()), [10.0])
