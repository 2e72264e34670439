"""What a device measured, on its way here: both clocks and its pressure, checked."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from edgefuse.compiler.timing.remote import read_latencies
from edgefuse.device.tasks import Quiet, Task, Timed
from edgefuse.errors import DeviceError
from edgefuse.measure.latency import Interleaved, Latencies
from edgefuse.progress import silent
from edgefuse.runtime import pressure
from edgefuse.runtime.pressure import Pressure
from tests.compiler.test_busy import Simulated

TIMING = Interleaved(burst=2)
MEASURED = Latencies(
    {"a": np.arange(1, 7) * 1000, "b": np.arange(2, 8) * 1000},
    2,
    {"a": np.arange(1, 7) * 900},
    Pressure(waited=0.4, processors=4),
)


def test_latencies_arrive_as_they_were_measured() -> None:
    sent = msgspec.json.encode(Timed.of(MEASURED))
    arrived = read_latencies(msgspec.json.decode(sent, type=Timed), ["a", "b"], TIMING)
    assert (arrived.burst, arrived.pressure) == (2, MEASURED.pressure)
    assert arrived.ratio("b", "a") == MEASURED.ratio("b", "a")
    assert arrived.ratio("b", "a").marked
    assert arrived.processor["a"].tolist() == MEASURED.processor["a"].tolist()


@pytest.mark.parametrize(
    "change",
    [
        {"nanoseconds": {"a": [1, 2]}},
        {"nanoseconds": {"a": [1, 2], "b": [1, 2, 3, 4]}, "processor": {}},
        {"nanoseconds": {"a": [1, 2, 3], "b": [1, 2, 3]}, "processor": {}},
        {"nanoseconds": {"a": [], "b": []}, "processor": {}},
        {"processor": {"a": [1, 2]}},
        {"processor": {"c": [1] * 6}},
    ],
)
def test_a_device_that_measured_something_else_is_refused(change: dict[str, dict[str, list[int]]]) -> None:
    timed = msgspec.structs.replace(Timed.of(MEASURED), **change)
    with pytest.raises(
        DeviceError, match=r"measured something else than was asked for: .*expected 2 of the same length"
    ):
        read_latencies(timed, ["a", "b"], TIMING)


@pytest.mark.parametrize("ns", [-1, 10**30])
def test_a_device_whose_clock_is_off_is_refused(ns: int) -> None:
    timed = msgspec.structs.replace(Timed.of(MEASURED), processor={"a": [ns] * 6})
    with pytest.raises(
        DeviceError, match=r"measured impossible times: got calls of .* ns, expected 0 to 1000000000000000"
    ):
        read_latencies(timed, ["a", "b"], TIMING)


@pytest.mark.parametrize("waited", [0.0, 0.4])
def test_a_device_says_whether_it_is_quiet(waited: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pressure, "SYSTEM", Simulated(waited))
    task = msgspec.json.decode(msgspec.json.encode(Quiet()), type=Task)
    assert task(tmp_path, silent) is (waited == 0.0)
