"""Where a ladder's readings come from: this device, whatever it tells, and what was written down."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgefuse.errors import InputError
from edgefuse.runtime.ladder import Reading, Replay, System
from edgefuse.runtime.ladder.quota import processors
from edgefuse.runtime.processor import available_processors

TICKS = os.sysconf("SC_CLK_TCK")


def write(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def stat(root: Path, busy_s: float, stolen_s: float) -> None:
    write(root, "proc/stat", f"cpu  {int(busy_s * TICKS)} 0 0 9 0 0 0 {int(stolen_s * TICKS)} 0 0\n")


def test_this_device_can_be_read() -> None:
    system = System()
    assert system.read(0.0).load is None  # which is counted between two readings
    second = system.read(1.0)
    assert second.processors is not None
    assert 0 < second.processors <= available_processors()
    assert second.load is None or 0 <= second.load <= 1


def test_what_the_kernel_says_becomes_a_reading(tmp_path: Path) -> None:
    count, cores = "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count", os.cpu_count() or 1
    write(tmp_path, "proc/meminfo", "MemTotal: 4000 kB\nMemAvailable:   2000 kB\n")
    write(tmp_path, count, "3\n")
    for zone, temperature in enumerate(("48500", "71000")):
        write(tmp_path, f"sys/class/thermal/thermal_zone{zone}/temp", temperature)
    write(tmp_path, "sys/class/power_supply/BAT0/capacity", "40\n")
    write(tmp_path, "sys/class/power_supply/BAT0/status", "Discharging\n")
    stat(tmp_path, 10.0, 1.0)
    system = System(tmp_path)
    first = system.read(100.0)
    assert first == Reading(
        processors=available_processors(), temperature_c=71.0, available_bytes=2_048_000, battery=0.4
    )
    stat(tmp_path, 10.0 + cores, 1.0 + cores / 2)
    write(tmp_path, count, "4\n")
    second = system.read(102.0)
    assert second.load == pytest.approx(0.75)
    assert second.throttled is True
    assert system.read(104.0).throttled is False


@pytest.mark.parametrize("supply", [("Charging", "System"), ("Discharging", "Device")])
def test_a_battery_that_is_charged_or_of_a_mouse_is_none(tmp_path: Path, supply: tuple[str, str]) -> None:
    write(tmp_path, "proc/meminfo", "")
    write(tmp_path, "sys/class/power_supply/BAT0/capacity", "5\n")
    for name, text in zip(("status", "scope"), supply, strict=True):
        write(tmp_path, f"sys/class/power_supply/BAT0/{name}", text)
    assert System(tmp_path).read(0.0).battery is None


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/app/inner", {"app/cpu.max": "50000 100000\n", "app/inner/cpu.max": "max 100000\n"}, 0.5),
        ("0::/", {"cpu.max": "25000 100000\n"}, 0.25),  # a container's own root
        (
            "4:memory:/app\n2:cpu,cpuacct:/app",
            {"cpu,cpuacct/app/cpu.cfs_quota_us": "5000\n", "cpu,cpuacct/app/cpu.cfs_period_us": "10000\n"},
            0.5,
        ),
        ("1:cpu:/", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ("0::/../elsewhere", {"cpu.max": "nonsense"}, None),
        ("nonsense", {}, None),
    ],
    ids=["v2, above", "v2, root", "v1", "v1, none", "nonsense", "no groups"],
)
def test_a_quota_is_read_in_both_versions(
    tmp_path: Path, groups: str, files: dict[str, str], expected: float | None
) -> None:
    write(tmp_path, "proc/self/cgroup", groups + "\n")
    for name, text in files.items():
        write(tmp_path, f"sys/fs/cgroup/{name}", text)
    assert processors(root=tmp_path) == (available_processors() if expected is None else expected)


def test_a_system_without_proc_is_asked_by_psutil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    psutil = SimpleNamespace(
        cpu_percent=lambda interval: 40.0,
        virtual_memory=lambda: SimpleNamespace(available=123),
        sensors_battery=lambda: SimpleNamespace(percent=30, power_plugged=False),
    )
    monkeypatch.setitem(sys.modules, "psutil", psutil)
    known = System(tmp_path).read(0.0)
    assert known == Reading(load=0.4, processors=available_processors(), available_bytes=123, battery=0.3)
    monkeypatch.setitem(sys.modules, "psutil", None)
    assert System(tmp_path).read(0.0) == Reading(processors=available_processors())


def test_written_readings_come_back_at_their_times(tmp_path: Path) -> None:
    path = tmp_path / "hot.csv"
    path.write_text("now_s,temperature_c,throttled,battery\n1,60,0,\n2.5,90,1,0.3\n")
    replay = Replay.of_csv(path)
    assert replay.read(0.9) == Reading()
    assert replay.read(2.4) == Reading(temperature_c=60.0, throttled=False)
    assert replay.read(99.0) == Reading(temperature_c=90.0, throttled=True, battery=0.3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("now_s,heat\n1,2\n", "line 2 of .* is in no known column: got heat, expected now_s, load"),
        ("now_s,load\n1,much\n", "'load' in line 2 of .* is no number: got much"),
        ("now_s,load\n,0.5\n", "line 2 of .* has no time"),
        ("now_s,load\n2,0.5\n1,0.5\n", "out of order"),
        ("now_s,load\nnan,0.5\n", "out of order"),
        ("now_s\n1,2\n", "no known column"),
        ("now_s,load\n1," + 200_000 * "0" + "\n", "cannot be read: got .*field larger than field limit"),
    ],
)
def test_a_table_that_is_none_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        Replay.of_csv(path)
    with pytest.raises(InputError, match="cannot be read"):
        Replay.of_csv(tmp_path / "none.csv")
    with pytest.raises(InputError, match="cannot be read"):
        Replay.of_csv("a\0b")
