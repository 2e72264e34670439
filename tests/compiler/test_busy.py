"""Compiling on a busy machine: timings are marked, kept with their marks, and made again when the machine is quiet."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edgefuse.bundle.manifest import Figure, Machine
from edgefuse.bundle.spec import Record
from edgefuse.cli import main
from edgefuse.compiler.rungs.final import Ratio, RungAccuracy, RungTiming
from edgefuse.compiler.rungs.rungs import give_to_fast
from edgefuse.compiler.search import Combination
from edgefuse.compiler.timing import kept
from edgefuse.compiler.timing.here import Here
from edgefuse.datasets.cache import Cache
from edgefuse.runtime import pressure
from edgefuse.runtime.pressure import Pressure, Reading
from tests.compiler.conftest import Compiled

BUSY, QUIET = Pressure(waited=0.4), Pressure(waited=0.0)
SEEN = "40 % of the time waited for a processor (expected < 5 %)"


class Timing(Record, frozen=True, kw_only=True):
    """A record of timings."""

    number: int
    pressure: Pressure


@dataclass(frozen=True)
class Moment(Here):
    """A timer of this machine, which is quiet or not."""

    now_quiet: bool = False

    def quiet(self) -> bool:
        return self.now_quiet


class Bench:
    """Measures in a folder's cache, and counts how often."""

    def __init__(self, folder: Path) -> None:
        self.cache = Cache(folder)
        self.measured = 0

    def __call__(self, during: Pressure, now_quiet: bool) -> Timing:
        def make() -> Timing:
            self.measured += 1
            return Timing(number=self.measured, pressure=during)

        return kept.timings(self.cache, "figures", ["key"], Timing, make, Moment(now_quiet=now_quiet))


def test_quiet_timings_are_measured_once(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    assert [bench(QUIET, True).number for _ in range(3)] == [1, 1, 1]
    assert bench.measured == 1


def test_busy_timings_are_kept_until_the_machine_is_quiet(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    assert bench(BUSY, True).number == 1, "what was measured just now is not measured again"
    assert bench(QUIET, False).number == 1, "as long as the machine is busy the record decides"
    assert bench.measured == 1
    assert bench(BUSY, True).number == 1, "it was not quiet for long enough"
    assert bench.measured == 2
    assert bench(QUIET, True) == Timing(number=3, pressure=QUIET)
    assert [bench(BUSY, True).number for _ in range(2)] == [3, 3]
    assert bench.measured == 3


MACHINE = Machine(architecture="x86_64", cpu="any", cores=2, features=(), runtimes={}, threads=1)


def rung(p50_ms: float, ratio: float, low: float, high: float, marked: bool) -> RungTiming:
    over = Ratio(ratio=ratio, ci95=(low, high), marked=marked)
    return RungTiming(figure=Figure(machine=MACHINE, runs=100, p50_ms=p50_ms), speedup=None, speedup_over_float=over)


@pytest.mark.parametrize(
    ("fast", "small", "marked", "moves"),
    [
        ((1.0, 3.0, 2.0, 4.0), (0.9, 3.3, 2.2, 4.4), True, False),
        ((1.0, 3.0, 2.0, 4.0), (0.9, 3.3, 2.2, 4.4), False, True),
        ((1.0, 3.0, 2.9, 3.1), (0.5, 6.0, 5.0, 7.0), True, True),
    ],
)
def test_rungs_that_a_busy_machine_cannot_tell_apart_keep_their_names(
    fast: tuple[float, float, float, float], small: tuple[float, float, float, float], marked: bool, moves: bool
) -> None:
    chosen: dict[str, Combination] = {name: {"fusion": name} for name in ("fast", "small")}
    accuracies = {name: RungAccuracy({"all": 0.9}, {}) for name in chosen}
    give_to_fast(chosen, accuracies, {"fast": rung(*fast, marked), "small": rung(*small, marked)})
    assert chosen["fast"] == {"fusion": "small" if moves else "fast"}


class Simulated:
    """A source on which every thread waits for a share of its time."""

    processors = 2

    def __init__(self, waited: float) -> None:
        self.waited = waited
        self.ms = 0

    def __call__(self) -> Reading:
        self.ms += 1
        times = (round((1 - self.waited) * 1e6 * self.ms), round(self.waited * 1e6 * self.ms))
        return Reading(at_ns=1_000_000 * self.ms, processor_ns=times[0], threads={1: times})


def marks(value: Any) -> list[bool]:
    """Return every mark of a JSON value, at any depth."""
    if isinstance(value, dict):
        own = [value["marked"]] if "marked" in value else []
        return own + [mark for item in value.values() for mark in marks(item)]
    return [mark for item in value for mark in marks(item)] if isinstance(value, list) else []


def test_a_compile_says_what_a_busy_machine_falsified_and_times_it_again_in_quiet(
    compiled: Compiled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = tmp_path / "cache"
    shutil.copytree(compiled.cache, cache)
    for kind in ("figures", "timings"):
        shutil.rmtree(cache / kind)
    command = ["compile", str(compiled.recipe), "-o", str(tmp_path / "out"), "--cache", str(cache), "--strict"]
    monkeypatch.setattr(pressure, "MOST_DRIFT", math.inf)
    monkeypatch.setattr(pressure, "SYSTEM", Simulated(0.4))
    assert main(command) == 1
    out, err = capsys.readouterr()
    assert f"BUSY, not to be trusted (*): rungs: {SEEN}" in out
    assert "the machine was busy while candidates or rungs were timed" in err
    report = json.loads((tmp_path / "out/report.json").read_text(encoding="utf-8"))
    assert all(timing["busy"] == [SEEN] for timing in report["timings"])
    assert {timing["what"] for timing in report["timings"]} >= {"rungs", "stages in torch", "onnx fusion"}
    assert marks(report)
    assert all(marks(report))
    assert "The machine was busy" in (tmp_path / "out/report.html").read_text(encoding="utf-8")

    monkeypatch.setattr(pressure, "SYSTEM", Simulated(0.0))
    assert main(command) == 0, "it is all measured again, and only that"
    report = json.loads((tmp_path / "out/report.json").read_text(encoding="utf-8"))
    assert [timing["busy"] for timing in report["timings"]] == [[]] * len(report["timings"])
    assert not any(marks(report))
    assert "busy" not in capsys.readouterr().out.lower()
