"""Two threads, and how long encoders take in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from edgefuse.runtime import side_by_side
from edgefuse.runtime.side_by_side import Helper, Times


@pytest.fixture(autouse=True)
def two_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take two threads wherever the tests run."""
    monkeypatch.setattr("edgefuse.runtime.backends.backend.checked_threads", lambda threads: threads)


@pytest.fixture
def measuring(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], list[object]]:
    """Make side by side faster from here on, and write down when it is measured."""

    def measure(full_s: float) -> list[object]:
        asked: list[object] = []

        def measured(stages: object, plans: Mapping[str, object], *_: object, **__: object) -> Any:
            asked.append(stages)
            return Times(dict.fromkeys(plans, full_s), dict.fromkeys(plans, 1.0), 0.1), []

        monkeypatch.setattr(side_by_side, "measured", measured)
        return asked

    return measure


@pytest.fixture(params=["onnx", "tflite"])
def bundle(request: pytest.FixtureRequest) -> Path:
    """The tiny bundle for either runtime."""
    found: Path = request.getfixturevalue({"onnx": "tiny_bundle", "tflite": "tflite_bundle"}[request.param])
    return found


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many modalities each call shares from here on."""
    counts: list[int] = []
    real = Helper.share

    def share(self: Helper, jobs: Any) -> None:
        jobs = list(jobs)
        counts.append(len(jobs))
        real(self, jobs)

    monkeypatch.setattr(Helper, "share", share)
    return counts
