from __future__ import annotations

from pathlib import Path

import pytest

from edgefuse.measure import machine

X86 = "".join(
    f"processor\t: {index}\nmodel name\t: Some  CPU @ 2 GHz\nphysical id\t: 0\ncore id\t\t: {index // 2}\n"
    "flags\t\t: fpu avx2 avx512f avx512_vnni sse\n\n"
    for index in range(4)
)
ARM = "".join(
    f"processor\t: {index}\nFeatures\t: fp asimd asimddp\nCPU implementer\t: 0x41\nCPU part\t: 0xd42\n\n"
    for index in range(6)
)


def write(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_an_x86_is_read_from_cpuinfo(tmp_path: Path) -> None:
    write(tmp_path, "proc/cpuinfo", X86)
    cpu = machine.processor(root=tmp_path)
    assert cpu == machine.Processor("Some CPU @ 2 GHz", 2, 4, ("avx2", "avx512_vnni", "avx512f"))


def test_an_arm_core_is_named_by_its_part(tmp_path: Path) -> None:
    write(tmp_path, "proc/cpuinfo", ARM + "Hardware\t: board\n")
    assert machine.processor(root=tmp_path) == machine.Processor("Arm Cortex-A78AE", 6, 6, ("asimddp",))


def test_a_system_without_proc_still_has_a_processor(tmp_path: Path) -> None:
    cpu = machine.processor(root=tmp_path)
    assert cpu.name
    assert cpu.logical_cores >= 1


def test_a_machine_is_described_without_its_name() -> None:
    import platform

    described = machine.describe(2, {"b": "2", "a": "1"})
    assert described.threads == 2
    assert list(described.runtimes) == ["a", "b"]
    assert described == machine.describe(2, {"a": "1", "b": "2"})
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
    state = machine.condition(root=tmp_path)
    assert (state.governor, state.frequency_mhz, state.max_frequency_mhz) == ("schedutil", 1510.4, 1728.0)
    assert (state.temperatures_c, state.throttled) == ({"CPU-therm": 48.5}, 3)
    assert state.board == "NVIDIA Jetson Orin Nano Developer Kit"


def test_a_silent_system_is_no_error(tmp_path: Path) -> None:
    state = machine.condition(root=tmp_path)
    assert (state.governor, state.frequency_mhz, state.temperatures_c) == (None, None, {})


def test_the_power_mode_of_a_jetson_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvpmodel"
    tool.write_text("#!/bin/sh\necho 'NV Power Mode: MAXN_SUPER'\necho 2\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert machine.condition(root=tmp_path).power_mode == "MAXN_SUPER"
