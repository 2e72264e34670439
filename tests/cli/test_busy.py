"""What the verbs that measure say on a busy machine: the machine is simulated, the files are real."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from edgefuse import cli as command_line
from edgefuse.measure import benchmark, rungs
from edgefuse.measure.rungs import ColdStart
from edgefuse.runtime import pressure
from edgefuse.runtime.pressure import Reading

SEEN = "40 % of the time waited for a processor (expected < 5 %)"


class Machine:
    """A source on which every thread waits for a share of its time."""

    processors = 2

    def __init__(self, waited: float) -> None:
        self.waited = waited
        self.ms = 0

    def __call__(self) -> Reading:
        self.ms += 1
        times = (round((1 - self.waited) * 1e6 * self.ms), round(self.waited * 1e6 * self.ms))
        return Reading(at_ns=1_000_000 * self.ms, processor_ns=times[0], threads={1: times})


def on(monkeypatch: pytest.MonkeyPatch, waited: float, cold: float = 0.0) -> None:
    """Simulate a machine; whatever this one does meanwhile shows nowhere."""
    start = ColdStart(import_ms=1, load_ms=2, first_inference_ms=3, peak_rss_bytes=4, growth_bytes=5, waited=cold)
    monkeypatch.setattr(pressure, "SYSTEM", Machine(waited))
    monkeypatch.setattr(pressure, "MOST_DRIFT", math.inf)
    for module in (benchmark, rungs):
        monkeypatch.setattr(module, "cold_start", lambda *_, **__: start)


def edgefuse(capsys: pytest.CaptureFixture[str], *arguments: Any) -> tuple[int, str, str]:
    """Run a command line in this process."""
    code = command_line.main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_bench_marks_what_a_busy_machine_falsified(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    on(monkeypatch, 0.4)
    code, out, _ = edgefuse(capsys, "bench", tiny_bundle, "--rounds", "12", "--json")
    report = json.loads(out)
    assert code == 0
    assert report["busy"] == [SEEN]
    assert report["pressure"]["waited"] == pytest.approx(0.4)
    assert report["speedup_over_float"]["small"]["marked"] is True
    code, out, _ = edgefuse(capsys, "bench", tiny_bundle, "--rounds", "12")
    assert code == 0
    assert "] busy" in out
    assert f"BUSY, these figures cannot be trusted: {SEEN}" in out


def test_bench_ends_with_1_if_it_is_strict_and_the_machine_busy(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    on(monkeypatch, 0.4)
    code, out, err = edgefuse(capsys, "bench", tiny_bundle, "--rounds", "12", "--strict", "--json")
    assert code == 1
    assert json.loads(out)["busy"], "the figures are written all the same"
    assert f"the machine was busy while the rungs were timed: got {SEEN}. Fix: end what else runs there" in err


def test_a_cold_start_that_waited_is_said(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    on(monkeypatch, 0.0, cold=0.5)
    code, _, err = edgefuse(capsys, "bench", tiny_bundle, "--rounds", "12", "--rung", "small", "--strict")
    assert code == 1
    assert "50 % of the cold start of 'small' waited for a processor (expected < 25 %)" in err


def test_a_quiet_machine_marks_nothing(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    on(monkeypatch, 0.01, cold=0.1)
    code, out, _ = edgefuse(capsys, "bench", tiny_bundle, "--rounds", "12", "--strict", "--json")
    report = json.loads(out)
    assert code == 0
    assert report["busy"] == []
    assert report["speedup_over_float"]["small"]["marked"] is False
    code, out, _ = edgefuse(capsys, "bench", tiny_bundle, "--rounds", "12")
    assert "busy" not in out.lower()


def test_prepare_keeps_the_mark_with_the_figures(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    on(monkeypatch, 0.4)
    _, out, _ = edgefuse(capsys, "prepare", tiny_bundle)
    assert f"BUSY, these figures cannot be trusted: {SEEN}: --again measures anew" in out
    on(monkeypatch, 0.0)
    kept = json.loads(edgefuse(capsys, "prepare", tiny_bundle, "--json")[1])
    assert (kept["measured_now"], kept["busy"]) == (False, [SEEN])
    anew = json.loads(edgefuse(capsys, "prepare", tiny_bundle, "--again", "--json")[1])
    assert (anew["measured_now"], anew["busy"]) == (True, [])
    assert json.loads(edgefuse(capsys, "prepare", tiny_bundle, "--json")[1])["busy"] == []
