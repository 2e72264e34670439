"""Where a ladder's readings come from: this device, whatever it tells, and what was written down."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgefuse.errors import InputError
from edgefuse.runtime.ladder import Reading, Replay, System
from edgefuse.runtime.processor import available_processors
from edgefuse.runtime.quota import processors

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


def test_of_two_batteries_the_full_one_counts_too(tmp_path: Path) -> None:
    """As in some laptops, one is used up while the other one waits."""
    write(tmp_path, "proc/meminfo", "")
    for name, charge, status in (("BAT0", "95", "Not charging"), ("BAT1", "5", "Discharging")):
        write(tmp_path, f"sys/class/power_supply/{name}/capacity", f"{charge}\n")
        write(tmp_path, f"sys/class/power_supply/{name}/status", f"{status}\n")
    assert System(tmp_path).read(0.0).battery == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("groups", "files", "left"),
    [
        ("0::/app/inner", {"app/memory.max": "1000", "app/memory.current": "900", "app/inner/memory.max": "max"}, 100),
        ("0::/", {"memory.max": "1000", "memory.current": "1000", "memory.stat": "anon 600\nactive_file 300\n"}, 300),
        (
            "4:memory:/docker/ab",  # which the container sees as the top
            {
                "memory/memory.limit_in_bytes": "1000",
                "memory/memory.usage_in_bytes": "800",
                "memory/memory.stat": "inactive_file 1\ntotal_inactive_file 50\ntotal_active_file 25\n",
            },
            275,
        ),
        (
            "4:memory:/",
            {"memory/memory.limit_in_bytes": "9223372036854771712", "memory/memory.usage_in_bytes": "5"},
            None,
        ),
        ("0::/", {"memory.max": "nonsense", "memory.current": "1"}, None),
        ("2:cpu:/", {"memory.max": "10", "memory.current": "1"}, None),
        ("0::/", {"memory.max": "5000000", "memory.current": "1"}, None),  # more than there is
    ],
    ids=["v2, above", "v2, files", "v1", "v1, none", "nonsense", "another controller", "more than the machine's"],
)
def test_memory_is_what_the_groups_of_the_process_leave(
    tmp_path: Path, groups: str, files: dict[str, str], left: int | None
) -> None:
    write(tmp_path, "proc/meminfo", "MemAvailable:   2000 kB\n")
    write(tmp_path, "proc/self/cgroup", groups + "\n")
    for name, text in files.items():
        write(tmp_path, f"sys/fs/cgroup/{name}", text + "\n")
    assert System(tmp_path).read(0.0).available_bytes == (2_048_000 if left is None else left)


@pytest.mark.parametrize(
    ("kind", "now", "throttled"),
    [
        ("Processor", "2", True),
        ("cpufreq-cpu0", "1", True),
        ("devfreq-17000000.gpu", "1", True),
        ("intel_powerclamp", "20", True),
        ("intel_powerclamp", "-1", None),  # it does nothing
        ("LCD", "5", None),  # the screen is dimmed
        ("TCC Offset", "10", None),  # how a limit is set
        ("BAT0", "3", None),  # charged slowly
        ("hot-surface-alert", "1", None),  # a Jetson warns of a warm case from 70 degrees on
        ("cpu-fan", "3", None),
    ],
)
def test_a_cooling_device_that_slows_no_processor_down_holds_no_clock_back(
    tmp_path: Path, kind: str, now: str, throttled: bool | None
) -> None:
    write(tmp_path, "proc/meminfo", "")
    for name, text in (("type", kind), ("cur_state", now), ("max_state", "50")):
        write(tmp_path, f"sys/class/thermal/cooling_device0/{name}", f"{text}\n")
    assert System(tmp_path).read(0.0).throttled is throttled


@pytest.mark.parametrize(
    ("word", "throttled"),
    [("0", False), ("e0000", False), ("e0002", True), ("0x80008", True), ("1", False), ("?", None)],
)
def test_the_firmware_of_a_raspberry_pi_tells_what_it_does_now(
    tmp_path: Path, word: str, throttled: bool | None
) -> None:
    """And what it has done since the start (the upper bits), or that the voltage is low (the first)."""
    write(tmp_path, "proc/meminfo", "")
    write(tmp_path, "sys/devices/platform/soc/soc:firmware/get_throttled", f"{word}\n")
    assert System(tmp_path).read(0.0).throttled is throttled


@pytest.mark.parametrize(
    ("zones", "hottest"),
    [
        ((("x86_pkg_temp", "95000"), ("x86_pkg_temp", "40000")), 95.0),  # two sockets
        ((("CPU-therm", "34000"), ("PMIC-Die", "100000")), 34.0),  # a Jetson Nano
    ],
)
def test_the_hottest_zone_that_measures_counts(
    tmp_path: Path, zones: tuple[tuple[str, str], ...], hottest: float
) -> None:
    write(tmp_path, "proc/meminfo", "")
    for number, (kind, temperature) in enumerate(zones):
        write(tmp_path, f"sys/class/thermal/thermal_zone{number}/type", f"{kind}\n")
        write(tmp_path, f"sys/class/thermal/thermal_zone{number}/temp", f"{temperature}\n")
    assert System(tmp_path).read(0.0).temperature_c == hottest


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
    psutil.sensors_battery = lambda: SimpleNamespace(percent=10, power_plugged=None)
    assert System(tmp_path).read(0.0).battery is None, "it is not known whether it is used up"
    monkeypatch.setitem(sys.modules, "psutil", None)
    assert System(tmp_path).read(0.0) == Reading(processors=available_processors())


def test_written_readings_come_back_at_their_times(tmp_path: Path) -> None:
    path = tmp_path / "hot.csv"
    path.write_text("\ufeffnow_s,temperature_c,throttled,battery\n1,60,0,\n2.5,90,1,0.3\n", encoding="utf-8")  # Excel's
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
        ("now_s\n1,2\n", "line 2 of .* is in no known column: got 2 values or more, expected now_s, load"),
        ("now_s,load\n1,0.5\n\n2,much\n", "'load' in line 4 of .* is no number"),
        ("now_s,load\n1,55\n", "'load' in line 2 of .* is out of range: got 55.0, expected a share from 0 to 1"),
        ("now_s,throttled\n1,0.5\n", "'throttled' in line 2 of .* is out of range: got 0.5, expected 0 or 1"),
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
