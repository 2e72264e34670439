"""Every target with its quantizer and backend is held to this, whatever its name."""

from __future__ import annotations

import re

import numpy as np
import pytest

from edgefuse import registry
from edgefuse.bundle.manifest import Tolerance
from edgefuse.bundle.scheme import GRAMMAR
from edgefuse.export.costs import costs, graph
from edgefuse.export.target import Lowered, Target
from edgefuse.measure.agreement import agreement
from edgefuse.quantize.quantizer import Quantizer
from edgefuse.runtime.backends.backend import Backend, Placing, Saturating, SessionOptions
from edgefuse.runtime.processor import processor
from edgefuse.stages.examples import example_feeds
from edgefuse.stages.running import run_torch
from edgefuse.stages.stage import TorchStage

TARGETS = registry.names("targets")
LEAST_DB = 12.0
"""Of a scheme on random weights and generated inputs: less is a broken file."""


@pytest.fixture(scope="module", params=TARGETS)
def target(request: pytest.FixtureRequest) -> Target:
    made: Target = registry.create("targets", request.param)
    return made


@pytest.fixture(scope="module")
def backend(target: Target) -> Backend:
    made: Backend = registry.create("backends", target.backend)
    return made


@pytest.fixture(scope="module")
def quantizer(target: Target) -> Quantizer:
    made: Quantizer = registry.create("quantizers", target.name)
    return made


@pytest.fixture(scope="module")
def lowered(target: Target, cnn_stage: TorchStage) -> Lowered:
    return target.lower(cnn_stage)


def snr_db(backend: Backend, made: Lowered, stage: TorchStage) -> float:
    session = backend.open(made.data, made.inputs, made.outputs, SessionOptions(plan=made.plan))
    pairs = [(run_torch(stage, feeds), session.run(feeds)) for feeds in example_feeds(stage, count=4)]
    return agreement(pairs, Tolerance()).snr_db


def test_a_target_names_itself_its_files_and_what_opens_them(target: Target, backend: Backend) -> None:
    assert target.name in TARGETS
    assert target.title
    assert backend.title
    assert re.fullmatch(r"\.[a-z]+", target.suffix)
    assert backend.suffix == target.suffix
    assert target.accelerator in ("cpu", "gpu", "npu")
    assert target.versions()
    assert backend.versions()


def test_costs_are_counted_and_operators_told_apart(target: Target, lowered: Lowered, cnn_stage: TorchStage) -> None:
    assert costs(lowered, target.name, cnn_stage.spec).mac > 1e6
    families = {operation.family for operation in graph(lowered, target.name, cnn_stage.spec).operations}
    assert "convolution" in families


def test_every_scheme_that_is_offered_gives_a_file_that_answers(
    quantizer: Quantizer, backend: Backend, target: Target, lowered: Lowered, cnn_stage: TorchStage
) -> None:
    known = {scheme.id for scheme in quantizer.known()}
    offered = quantizer.schemes(cnn_stage.spec)
    assert offered
    for scheme in offered:
        assert scheme.id in known
        assert GRAMMAR.fullmatch(scheme.id)
        made = quantizer.apply(lowered, scheme, lambda: example_feeds(cnn_stage, count=8))
        assert [port.port for port in made.inputs] == [port.port for port in lowered.inputs]
        assert len(made.data) < len(lowered.data), scheme.id
        assert snr_db(backend, made, cnn_stage) > LEAST_DB, scheme.id
        assert graph(made, target.name, cnn_stage.spec).operations


def test_a_backend_says_what_it_knows_of_a_file(backend: Backend, lowered: Lowered, cnn_stage: TorchStage) -> None:
    if isinstance(backend, Placing):
        feeds = next(iter(example_feeds(cnn_stage)))
        found = backend.operators(lowered.data, lowered.inputs, lowered.outputs, feeds, SessionOptions())
        assert found
        assert np.sum([operator.macs for operator in found]) >= 0
    if isinstance(backend, Saturating):
        assert backend.saturates("float", processor()) is False
