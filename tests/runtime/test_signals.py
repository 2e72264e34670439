from __future__ import annotations

from pathlib import Path

import pytest

from edgefuse.runtime import signals


def write(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_machine_is_described_without_its_name() -> None:
    import platform

    described = signals.describe(2, {"b": "2", "a": "1"})
    assert described.threads == 2
    assert list(described.runtimes) == ["a", "b"]
    assert described == signals.describe(2, {"a": "1", "b": "2"})
    assert platform.node() not in (described.cpu, described.architecture)


def test_the_condition_is_read_where_the_system_tells_it(tmp_path: Path) -> None:
    cpu = "sys/devices/system/cpu/cpu0"
    write(tmp_path, f"{cpu}/cpufreq/scaling_governor", "schedutil\n")
    write(tmp_path, f"{cpu}/cpufreq/scaling_cur_freq", "1510400\n")
    write(tmp_path, f"{cpu}/cpufreq/cpuinfo_max_freq", "1728000\n")
    write(tmp_path, f"{cpu}/thermal_throttle/core_throttle_count", "3\n")
    write(tmp_path, "sys/class/thermal/thermal_zone0/type", "CPU-therm\n")
    write(tmp_path, "sys/class/thermal/thermal_zone0/temp", "48500\n")
    write(tmp_path, "sys/class/thermal/thermal_zone1/temp", "unavailable\n")
    write(tmp_path, "proc/device-tree/model", "NVIDIA Jetson Orin Nano Developer Kit\0")
    state = signals.condition(root=tmp_path)
    assert (state.governor, state.frequency_mhz, state.max_frequency_mhz) == ("schedutil", 1510.4, 1728.0)
    assert (state.temperatures_c, state.throttled) == ({"CPU-therm": 48.5}, 3)
    assert state.clocks_pinned is None
    assert state.board == "NVIDIA Jetson Orin Nano Developer Kit"


def test_a_silent_system_is_no_error(tmp_path: Path) -> None:
    state = signals.condition(root=tmp_path)
    assert (state.governor, state.frequency_mhz, state.temperatures_c) == (None, None, {})
    assert (state.clocks_pinned, state.cooling, state.memory_bytes) == (None, {}, None)


def test_what_the_kernel_holds_back_is_told_and_a_fan_is_not(tmp_path: Path) -> None:
    for index, (kind, now) in enumerate([("cpufreq-cpu0", 2), ("pwm-fan", 3), ("gpu", 0)]):
        folder = f"sys/class/thermal/cooling_device{index}"
        write(tmp_path, f"{folder}/type", f"{kind}\n")
        write(tmp_path, f"{folder}/cur_state", f"{now}\n")
        write(tmp_path, f"{folder}/max_state", "5\n")
    assert signals.condition(root=tmp_path).cooling == {"cpufreq-cpu0": "2 of 5"}


@pytest.mark.parametrize(("lowest", "pinned"), [("729600", False), ("1510400", True)])
def test_jetson_clocks_shows_as_one_frequency(tmp_path: Path, lowest: str, pinned: bool) -> None:
    write(tmp_path, "sys/devices/system/cpu/cpu0/cpufreq/scaling_min_freq", lowest)
    write(tmp_path, "sys/devices/system/cpu/cpu0/cpufreq/scaling_max_freq", "1510400")
    assert signals.condition(root=tmp_path).clocks_pinned is pinned


def test_memory_is_in_bytes(tmp_path: Path) -> None:
    write(tmp_path, "proc/meminfo", "MemTotal:        7990000 kB\nMemFree: 1 kB\nMemAvailable:    4000000 kB\n")
    state = signals.condition(root=tmp_path)
    assert (state.memory_bytes, state.available_bytes) == (7_990_000 * 1024, 4_000_000 * 1024)


def test_the_power_mode_of_a_jetson_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvpmodel"
    tool.write_text("#!/bin/sh\necho 'NV Power Mode: MAXN_SUPER'\necho 2\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert signals.condition(root=tmp_path).power_mode == "MAXN_SUPER"


def test_the_number_of_the_power_mode_is_read_where_nvpmodel_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    write(tmp_path, "var/lib/nvpmodel/status", "pmode:0002 fmode:quiet\n")
    assert signals.condition(root=tmp_path).power_mode == "number 2"
