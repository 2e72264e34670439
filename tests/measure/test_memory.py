from __future__ import annotations

import subprocess

import numpy as np
import pytest

from edgefuse.errors import MeasureError
from edgefuse.measure import memory


def test_the_peak_keeps_what_is_given_back() -> None:
    before = memory.peak_rss_bytes()
    held = memory.current_rss_bytes()
    size = before - held + 64_000_000
    np.ones(size, np.uint8)
    assert memory.peak_rss_bytes() >= before + 50_000_000
    assert memory.current_rss_bytes() < memory.peak_rss_bytes()


def test_a_childs_peak_is_its_own() -> None:
    ballast = np.ones(120_000_000, np.uint8)
    value, peak = memory.call_in_child(memory.current_rss_bytes)
    assert 1_000_000 < peak < 80_000_000 < len(ballast)
    assert value <= peak


def test_a_child_that_fails_says_why() -> None:
    with pytest.raises(MeasureError, match=r"'_status_bytes' ended with 1: got TypeError: .*'field'"):
        memory.call_in_child(memory._status_bytes)


def test_a_runtimes_greeting_is_no_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    greeted = subprocess.CompletedProcess([], -9, "", "INFO: Created TensorFlow Lite XNNPACK delegate for CPU.\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: greeted)
    with pytest.raises(MeasureError, match="'current_rss_bytes' ended with -9: got no message"):
        memory.call_in_child(memory.current_rss_bytes)
