"""A bundle that hears."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import edgefuse
from edgefuse.runtime.pipeline import Pipeline


@pytest.fixture(scope="session")
def listener_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model of `listener` as a bundle."""
    from edgefuse.stages.found import find
    from tests.float_bundle import float_bundle
    from tests.runtime.stream import listener

    return float_bundle(tmp_path_factory.mktemp("stream") / "listener", find(listener.model()), {})


@pytest.fixture
def hearing(listener_bundle: Path) -> Iterator[Pipeline]:
    """A pipeline that hears sound, which is required, and may see a picture."""
    with edgefuse.load(listener_bundle) as pipeline:
        yield pipeline


@pytest.fixture
def tiny(load_tiny: Callable[..., Pipeline]) -> Iterator[Pipeline]:
    """A pipeline of the tiny bundle: image, text, motion."""
    with load_tiny() as pipeline:
        yield pipeline
