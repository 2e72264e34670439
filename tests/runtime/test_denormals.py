from __future__ import annotations

import platform
import sys
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pytest

from edgefuse.runtime.backends.denormals import Flushed
from edgefuse.runtime.decoding import NO_TOKENS, DecoderSession
from edgefuse.stages.explicit import split
from tests.decoders import STEPS, LstmDecoder, generating

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


@pytest.mark.skipif(not known, reason="denormals are flushed on Linux, x86-64 and arm64 only: not checked here")
def test_all_steps_of_a_decoder_are_within_one_context() -> None:
    seen: list[float] = []

    class Step:
        def run(self, feeds: Mapping[str, npt.NDArray[np.generic]]) -> dict[str, npt.NDArray[np.generic]]:
            seen.append(denormal())
            return {port.tensor.name: np.zeros((1, 12), np.float32) for port in decoder.spec.outputs}

    model = generating(LstmDecoder)
    decoder = split(model)[-1]
    session = DecoderSession(Step(), decoder.spec, model.spec.outputs[0])  # type: ignore[arg-type]
    session.run({"token": NO_TOKENS})
    assert seen == [0.0] * STEPS
    assert denormal() > 0
