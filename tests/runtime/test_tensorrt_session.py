"""What a session decides, without a GPU: buffers, shapes, when a CUDA graph is recorded.

`Host` keeps "device" memory as arrays and does at once what a stream would do later. That is no test of TensorRT or
CUDA: those are tests/gpu.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgefuse.bundle.manifest import Binding, BuildPlan, Profile
from edgefuse.errors import BackendError, InputError
from edgefuse.runtime.backends.tensorrt.session import EngineSession, Shape, input_ranges

Bytes = npt.NDArray[np.uint8]


class Host:
    """Memory and work in order; counts what was enqueued, recorded and replayed."""

    handle = 7

    def __init__(self, *, records: bool = True) -> None:
        self.memory: dict[int, Bytes] = {}
        self.records = records
        self.counts = {"enqueued": 0, "recorded": 0, "replayed": 0, "waited": 0}

    def allocate(self, size_bytes: int) -> int:
        self.memory[1000 + len(self.memory)] = np.zeros(size_bytes, np.uint8)
        return max(self.memory)

    def pinned(self, size_bytes: int) -> Bytes:
        return np.zeros(size_bytes, np.uint8)

    def upload(self, device: int, host: Bytes) -> None:
        self.memory[device][: host.size] = host

    def download(self, host: Bytes, device: int) -> None:
        host[:] = self.memory[device][: host.size]

    def wait(self) -> None:
        self.counts["waited"] += 1

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        if not self.records:
            raise BackendError("cudaStreamEndCapture says 'operation not permitted' (CUDA error 900)")
        self.counts["recorded"] += 1

        def replay() -> None:
            self.counts["replayed"] += 1
            work()

        return replay


class Doubling:
    """An engine: y = 2 x, for up to `steps` steps of an open size."""

    def __init__(self, host: Host, shape: Shape, *, steps: int = 4) -> None:
        self.host, self.shape, self.steps = host, shape, steps
        self.addresses: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: Shape) -> bool:
        fits = 1 <= shape[1] <= self.steps
        self.shape = shape if fits else self.shape
        return fits

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self.addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        assert stream_handle == self.host.handle
        assert min(self.shape) >= 0
        self.host.counts["enqueued"] += 1
        source, target = (self.host.memory[self.addresses[name]].view(np.float32) for name in ("x_0", "y_0"))
        count = math.prod(self.shape)
        target[:count] = 2 * source[:count]
        return True


def binding(port: str, shape: Shape) -> Binding:
    return Binding(port=port, tensor=f"{port}_0", dtype="float32", shape=shape)


PLAN = BuildPlan(profiles=(Profile(port="x", minimum=(1, 1, 2), optimum=(1, 2, 2), maximum=(1, 4, 2)),))


def opened(shape: Shape, *, records: bool = True) -> tuple[EngineSession, Host]:
    host = Host(records=records)
    engine = Doubling(host, shape)
    inputs = (binding("x", shape),)
    ranges = input_ranges(inputs, PLAN)
    session = EngineSession(engine, lambda _: engine.shape, host, inputs, (binding("y", shape),), ranges)
    return session, host


def ramp(*shape: int) -> npt.NDArray[Any]:
    return np.arange(math.prod(shape), dtype=np.float32).reshape(shape)


def test_fixed_shapes_are_recorded_once_and_replayed() -> None:
    session, host = opened((1, 3, 2))
    assert host.counts == {"enqueued": 1, "recorded": 1, "replayed": 0, "waited": 1}  # one run before the recording
    for value in (ramp(1, 3, 2), -ramp(1, 3, 2)):
        np.testing.assert_array_equal(session.run({"x": value})["y"], 2 * value)
    assert (host.counts["recorded"], host.counts["replayed"]) == (1, 2)


def test_what_cannot_be_recorded_runs_without(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        session, host = opened((1, 3, 2), records=False)
    assert "a stage runs without a CUDA graph: cudaStreamEndCapture says" in caplog.text
    np.testing.assert_array_equal(session.run({"x": ramp(1, 3, 2)})["y"], 2 * ramp(1, 3, 2))
    assert host.counts["replayed"] == 0


def test_open_shapes_are_never_recorded() -> None:
    session, host = opened((1, -1, 2))
    for steps in (1, 4, 2):
        result = session.run({"x": ramp(1, steps, 2)})["y"]
        np.testing.assert_array_equal(result, 2 * ramp(1, steps, 2))
    assert host.counts == {"enqueued": 3, "recorded": 0, "replayed": 0, "waited": 3}


@pytest.mark.parametrize("shape", [(1, 3, 2), (1, -1, 2)])
def test_outputs_survive_the_next_call(shape: Shape) -> None:
    session, _ = opened(shape)
    first = session.run({"x": ramp(1, 3, 2)})["y"]
    session.run({"x": np.zeros((1, 3, 2), np.float32)})
    np.testing.assert_array_equal(first, 2 * ramp(1, 3, 2))
    assert first.flags.owndata


def test_a_shorter_input_of_a_fixed_shape_is_padded_with_zeros() -> None:
    session, _ = opened((1, 3, 2))
    session.run({"x": np.ones((1, 3, 2), np.float32)})
    result = session.run({"x": np.ones((1, 1, 2), np.float32)})["y"]
    assert result.tolist() == [[[2, 2], [0, 0], [0, 0]]]


def test_a_shape_beyond_the_profile_is_refused_and_the_next_call_works() -> None:
    session, _ = opened((1, -1, 2))
    with pytest.raises(InputError, match=r"'x' has a shape that the engine was not built for: got \[1, 5, 2\]"):
        session.run({"x": ramp(1, 5, 2)})
    np.testing.assert_array_equal(session.run({"x": ramp(1, 2, 2)})["y"], 2 * ramp(1, 2, 2))


def test_strided_feeds_are_copied_whole() -> None:
    session, _ = opened((1, 3, 2))
    wide = ramp(1, 3, 4)
    np.testing.assert_array_equal(session.run({"x": wide[:, :, ::2]})["y"], 2 * wide[:, :, ::2])


def test_a_run_that_the_engine_refuses_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    session, _ = opened((1, -1, 2))
    monkeypatch.setattr(Doubling, "execute_async_v3", lambda self, stream_handle: False)
    with pytest.raises(BackendError, match="TensorRT cannot run a stage"):
        session.run({"x": ramp(1, 1, 2)})


def test_ranges_are_those_of_the_plan_by_tensor() -> None:
    inputs = (binding("x", (1, -1, 2)), binding("fixed", (1, 2)))
    assert input_ranges(inputs, PLAN) == {"x_0": ((1, 1, 2), (1, 2, 2), (1, 4, 2))}


@pytest.mark.parametrize(
    ("inputs", "got"),
    [
        ((binding("z", (1, -1, 2)),), "no profile"),
        ((binding("x", (1, -1, 3)),), r"\(\(1, 1, 2\), \(1, 2, 2\), \(1, 4, 2\)\)"),
        ((binding("x", (1, -1)),), r"\(\(1, 1, 2\)"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(inputs: tuple[Binding, ...], got: str) -> None:
    with pytest.raises(
        BackendError, match=f"does not say which shapes the input '[xz]' takes: got {got}.* Fix: compile"
    ):
        input_ranges(inputs, PLAN)
