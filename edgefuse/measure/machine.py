"""What a figure was measured on, and in which condition the machine is: clocks, heat, power mode."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgefuse.bundle.manifest import Machine

_ROOT = Path("/")
# As manifests spell them: what decides the speed or the saturation of int8 arithmetic.
FEATURES = ("amx_int8", "asimddp", "avx2", "avx512_vnni", "avx512f", "avx_vnni", "i8mm")
# Arm's main id register: (implementer, part), as /proc/cpuinfo gives them.
_ARM_PARTS = {
    ("0x41", "0xd03"): "Arm Cortex-A53",
    ("0x41", "0xd05"): "Arm Cortex-A55",
    ("0x41", "0xd08"): "Arm Cortex-A72",
    ("0x41", "0xd0b"): "Arm Cortex-A76",
    ("0x41", "0xd0c"): "Arm Neoverse-N1",
    ("0x41", "0xd40"): "Arm Neoverse-V1",
    ("0x41", "0xd41"): "Arm Cortex-A78",
    ("0x41", "0xd42"): "Arm Cortex-A78AE",
    ("0x41", "0xd4f"): "Arm Neoverse-V2",
}
_MAIN_ARCHITECTURES = {"amd64": "x86_64", "arm64": "aarch64"}


@dataclass(frozen=True)
class Processor:
    """The CPU. `features` are those of `FEATURES` that it has, sorted."""

    name: str
    physical_cores: int
    logical_cores: int
    features: tuple[str, ...]


@dataclass(frozen=True)
class Condition:
    """What the machine is like right now; None or empty where it does not tell.

    Attributes:
        board: the name of a single-board computer.
        governor: of the CPU's clock.
        frequency_mhz: the clock of the first core now.
        temperatures_c: by name of the thermal zone.
        throttled: how often the first core was throttled by heat since the start.
        power_mode: of a Jetson (`nvpmodel -q`).
    """

    board: str | None
    governor: str | None
    frequency_mhz: float | None
    max_frequency_mhz: float | None
    temperatures_c: Mapping[str, float]
    throttled: int | None
    power_mode: str | None


def describe(threads: int, runtimes: Mapping[str, str], *, root: Path = _ROOT) -> Machine:
    """Describe this machine as a figure's key: no host name, nothing that changes while it runs; `root` holds /proc."""
    machine = platform.machine().lower()
    cpu = processor(root=root)
    return Machine(
        architecture=_MAIN_ARCHITECTURES.get(machine, machine),
        cpu=cpu.name,
        cores=cpu.physical_cores,
        features=cpu.features,
        runtimes=dict(sorted(runtimes.items())),
        threads=threads,
    )


def processor(*, root: Path = _ROOT) -> Processor:
    """Read what the CPU is from /proc/cpuinfo, or from Python where there is none."""
    blocks = _cpuinfo(root)
    logical = len(blocks) or os.cpu_count() or 1
    first = blocks[0] if blocks else {}
    flags = set((first.get("flags") or first.get("Features") or "").split())
    cores = {(block.get("physical id"), block["core id"]) for block in blocks if "core id" in block}
    part = (first.get("CPU implementer", ""), first.get("CPU part", ""))
    name = first.get("model name") or _ARM_PARTS.get(part) or " ".join(part).strip() or platform.processor()
    return Processor(
        name=re.sub(r"\s+", " ", name) or "unknown",
        physical_cores=len(cores) or logical,
        logical_cores=logical,
        features=tuple(feature for feature in FEATURES if feature in flags),
    )


def condition(*, root: Path = _ROOT) -> Condition:
    """Read clocks, heat and power mode, each where the system offers it."""
    cpu = root / "sys/devices/system/cpu/cpu0"
    throttled = _number(cpu / "thermal_throttle/core_throttle_count")
    board = _line(root / "proc/device-tree/model")
    return Condition(
        board=board.rstrip("\0") if board else None,
        governor=_line(cpu / "cpufreq/scaling_governor"),
        frequency_mhz=_scaled(cpu / "cpufreq/scaling_cur_freq"),
        max_frequency_mhz=_scaled(cpu / "cpufreq/cpuinfo_max_freq"),
        temperatures_c=_temperatures(root),
        throttled=None if throttled is None else int(throttled),
        power_mode=_nvpmodel(),
    )


def _cpuinfo(root: Path) -> list[dict[str, str]]:
    """Return a mapping per logical core."""
    path = root / "proc/cpuinfo"
    if not path.exists():
        return []
    blocks = path.read_text(encoding="utf-8", errors="replace").strip().split("\n\n")
    parsed = [
        {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in block.splitlines())}
        for block in blocks
    ]
    return [block for block in parsed if "processor" in block]


def _temperatures(root: Path) -> dict[str, float]:
    zones: dict[str, float] = {}
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        reading = _number(zone / "temp")
        if reading is not None:
            zones[_line(zone / "type") or zone.name] = reading / 1000
    return zones


def _scaled(path: Path) -> float | None:
    kilohertz = _number(path)
    return None if kilohertz is None else kilohertz / 1000


def _number(path: Path) -> float | None:
    text = _line(path)
    return float(text) if text and re.fullmatch(r"-?\d+", text) else None


def _line(path: Path) -> str | None:
    """Return what a file of /sys or /proc says; None where it is missing or refuses, as a powered-down zone does."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip() or None
    except OSError:
        return None


def _nvpmodel() -> str | None:
    try:
        answer = subprocess.run(["nvpmodel", "-q"], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"NV Power Mode:\s*(\S+)", answer.stdout)
    return found.group(1) if found else None
