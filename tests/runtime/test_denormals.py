from __future__ import annotations

import platform
import sys

import numpy as np
import pytest

from edgefuse.runtime.backends.denormals import Flushed

known = sys.platform == "linux" and platform.machine() in ("x86_64", "aarch64")


def denormal() -> float:
    smallest = np.full(64, np.finfo(np.float32).tiny, np.float32)
    return float((smallest * np.float32(0.5)).sum())


@pytest.mark.skipif(not known, reason="denormals are flushed on Linux, x86-64 and arm64 only: not checked here")
def test_denormals_are_flushed_inside_and_only_there() -> None:
    flushed = Flushed()
    assert denormal() > 0
    with flushed:
        assert denormal() == 0
    assert denormal() > 0


def test_the_mode_comes_back_after_an_error() -> None:
    with pytest.raises(ValueError, match="inside"), Flushed():
        raise ValueError("inside")
    assert denormal() > 0


@pytest.mark.skipif(not known, reason="denormals are flushed on Linux, x86-64 and arm64 only: not checked here")
def test_a_context_within_another_leaves_the_mode_to_it() -> None:
    inner = Flushed()
    with Flushed():
        with inner:
            assert denormal() == 0
        assert denormal() == 0
    assert denormal() > 0
    with inner:  # and is whole by itself again
        assert denormal() == 0
    assert denormal() > 0
