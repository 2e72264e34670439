"""What a device knows about itself: which machine it is, its condition, and what the rungs of a bundle cost on it.

The condition is clocks, heat, power mode and memory; `pressure` says how busy it is. What rungs cost was measured here
before (`edgefuse prepare`) and is kept beside the bundle.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edgefuse.bundle.manifest import Figure, Machine
from edgefuse.bundle.spec import Record
from edgefuse.errors import MeasureError
from edgefuse.files import read_regular
from edgefuse.runtime import quota
from edgefuse.runtime.pressure import Pressure
from edgefuse.runtime.processor import ROOT, processor
from edgefuse.typed_json import decode

logger = logging.getLogger(__name__)

_NO_SENSORS = frozenset({"PMIC-Die"})
"""Thermal zones that say one number at any temperature: this one, of Jetsons, 100 degrees."""
_HOLDS_CLOCKS = ("cpu", "gpu", "processor", "freq", "idle", "powerclamp", "throttle", "balanced")
"""Parts of the names of cooling devices that slow processors down, in lower case. Others dim a screen, charge a battery
slowly, or say how a limit is set, and may be at work on a cold device."""


@dataclass(frozen=True)
class Condition:
    """What the machine is like right now; None or empty where it does not tell.

    Attributes:
        board: the name of a single-board computer.
        governor: of the CPU's clock.
        frequency_mhz: the clock of the first core now.
        clocks_pinned: whether the lowest clock equals the highest, as `jetson_clocks` sets it.
        temperatures_c: by name of the thermal zone.
        throttled: how often the first core was throttled by heat since the start.
        cooling: which clocks the kernel holds back right now against heat, by name: "2 of 5" steps.
        power_mode: of a Jetson: `nvpmodel`'s name for it, or its number where only that can be read.
        memory_bytes, available_bytes: what there is, and what this process can still get.
    """

    board: str | None
    governor: str | None
    frequency_mhz: float | None
    max_frequency_mhz: float | None
    clocks_pinned: bool | None
    temperatures_c: Mapping[str, float]
    throttled: int | None
    cooling: Mapping[str, str]
    power_mode: str | None
    memory_bytes: int | None
    available_bytes: int | None


def describe(threads: int, runtimes: Mapping[str, str], *, root: Path = ROOT) -> Machine:
    """Describe this machine as a figure's key: no host name, nothing that changes while it runs; `root` holds /proc.

    Args:
        threads: of the runtime.
        runtimes: versions by distribution.
        root: the folder that holds /proc.
    """
    cpu = processor(root=root)
    return Machine(
        architecture=cpu.architecture,
        cpu=cpu.name,
        cores=cpu.physical_cores,
        features=cpu.features or (),
        runtimes=dict(sorted(runtimes.items())),
        threads=threads,
    )


def condition(*, root: Path = ROOT) -> Condition:
    """Read clocks, heat, power mode and memory, each where the system offers it."""
    cpu = root / "sys/devices/system/cpu/cpu0"
    throttled = throttle_count(root)
    board = _line(root / "proc/device-tree/model")
    lowest, highest = (_number(cpu / f"cpufreq/scaling_{end}_freq") for end in ("min", "max"))
    return Condition(
        board=board.rstrip("\0") if board else None,
        governor=_line(cpu / "cpufreq/scaling_governor"),
        frequency_mhz=_scaled(cpu / "cpufreq/scaling_cur_freq"),
        max_frequency_mhz=_scaled(cpu / "cpufreq/cpuinfo_max_freq"),
        clocks_pinned=None if None in (lowest, highest) else lowest == highest,
        temperatures_c=temperatures_c(root),
        throttled=throttled,
        cooling=cooling(root),
        power_mode=_nvpmodel() or _power_mode_number(root),
        memory_bytes=_memory(root, "MemTotal"),
        available_bytes=available_bytes(root),
    )


def temperatures_c(root: Path = ROOT) -> dict[str, float]:
    """Return the temperatures of the thermal zones by name; the highest of several that share one, as sockets do."""
    zones: dict[str, float] = {}
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        reading, name = _number(zone / "temp"), _line(zone / "type") or zone.name
        if reading is not None and name not in _NO_SENSORS:
            zones[name] = max(reading / 1000, zones.get(name, -math.inf))
    return zones


def throttle_count(root: Path = ROOT) -> int | None:
    """Return how often the first core was throttled by heat since the start."""
    count = _number(root / "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count")
    return None if count is None else int(count)


def cooling(root: Path = ROOT) -> dict[str, str]:
    """Return the cooling devices that hold clocks back now; those of one name as one, the steps of the furthest."""
    steps: dict[str, tuple[float, float]] = {}
    for device in sorted((root / "sys/class/thermal").glob("cooling_device*")):
        now, most, kind = _number(device / "cur_state"), _number(device / "max_state"), _line(device / "type") or ""
        holds = any(part in kind.lower() for part in _HOLDS_CLOCKS) and "fan" not in kind.lower()
        if holds and now and now > 0 and most:  # -1 is intel_powerclamp, before Linux 6.3, while it does nothing
            steps[kind] = max((now, most), steps.get(kind, (0.0, 0.0)))
    return {kind: f"{now:.0f} of {most:.0f}" for kind, (now, most) in steps.items()}


def firmware_holds_back(root: Path = ROOT) -> bool | None:
    """Tell whether the firmware of a Raspberry Pi holds clocks back now, which it does without the kernel.

    None elsewhere. (Raspberry Pi documentation, `vcgencmd get_throttled`: bit 1, the clock is capped; 2, throttled; 3,
    beyond the soft limit of temperature.)
    """
    word = _line(root / "sys/devices/platform/soc/soc:firmware/get_throttled") or ""
    return bool(int(word, 16) & 0b1110) if re.fullmatch(r"(0x)?[0-9a-fA-F]{1,16}", word) else None


def available_bytes(root: Path = ROOT) -> int | None:
    """Return what this process can still get of the machine's memory, and of what its control groups may have."""
    found = (_memory(root, "MemAvailable"), quota.left_bytes(root=root))
    return min((one for one in found if one is not None), default=None)


def battery(root: Path = ROOT) -> float | None:
    """Return the charge of the batteries, 0 to 1: their mean; None where there is none, or none is being used up.

    Where there are several, one may be used up while another, as yet full, waits.
    """
    charges: list[float] = []
    used_up = False
    for supply in sorted((root / "sys/class/power_supply").glob("*")):
        charge = _number(supply / "capacity")
        if charge is not None and _line(supply / "scope") != "Device":  # which that of a mouse or a pen has
            charges.append(min(max(charge / 100, 0.0), 1.0))
            used_up = used_up or _line(supply / "status") == "Discharging"
    return sum(charges) / len(charges) if used_up else None


def _memory(root: Path, field: str) -> int | None:
    found = re.search(rf"^{field}:\s*(\d+) kB$", _line(root / "proc/meminfo") or "", re.MULTILINE)
    return int(found[1]) * 1024 if found else None


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
        command = ["nvpmodel", "-q"]
        answer = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"NV Power Mode:\s*(\S+)", answer.stdout)
    return found.group(1) if found else None


def _power_mode_number(root: Path) -> str | None:
    """Return the number that nvpmodel keeps for the next start, which needs no right to ask it."""
    found = re.fullmatch(r"pmode:0*(\d+).*", _line(root / "var/lib/nvpmodel/status") or "")
    return f"number {found[1]}" if found else None


_MAX_PREPARED_BYTES = 1 << 22
_PREPARED_SCHEMA = 1


class Entry(Record, frozen=True, kw_only=True):
    """Figures by rung, for one bundle (by digest) on one machine, and what else that machine did meanwhile.

    `sha256` is that of all the rest, so that a digit that changed on the disk is not taken for what was measured.
    """

    digest: str
    machine: Machine
    figures: dict[str, Figure]
    pressure: Pressure = msgspec.field(default_factory=Pressure)
    sha256: str = ""

    def sealed(self) -> Entry:
        """Return the same with its hash."""
        bare = msgspec.json.encode(msgspec.structs.replace(self, sha256=""), order="sorted")
        return msgspec.structs.replace(self, sha256=hashlib.sha256(bare).hexdigest())


class Prepared(Record, frozen=True, kw_only=True):
    """The content of the cache file."""

    schema: int = _PREPARED_SCHEMA
    entries: tuple[Entry, ...] = ()


def prepared_path(bundle: Path) -> Path:
    """Return where the figures of a bundle are kept: `<bundle>.prepared.json` in the same folder."""
    resolved = bundle.resolve()
    return resolved.with_name(resolved.name + ".prepared.json")


def read_prepared(bundle: Path, digest: str) -> tuple[Entry, ...]:
    """Return what was measured of this very bundle, on all machines that shared the folder; a warning tells of damage.

    Raises:
        MeasureError: if the system does not let the cache file be read.
    """
    return tuple(entry for entry in _load_prepared(prepared_path(bundle)).entries if entry.digest == digest)


def write_prepared(
    bundle: Path, digest: str, machine: Machine, figures: Mapping[str, Figure], pressure: Pressure | None = None
) -> Path:
    """Keep the figures of a bundle, in place of older ones of this machine and of other contents of the bundle.

    The file appears whole or not at all.

    Args:
        bundle: its path.
        digest: of the bundle.
        machine: that the figures are of.
        figures: by rung.
        pressure: the load of the machine meanwhile; None if it was not read.

    Raises:
        MeasureError: if the folder cannot be written, or the cache file not be read.
    """
    path = prepared_path(bundle)
    others = tuple(entry for entry in read_prepared(bundle, digest) if entry.machine != machine)
    entry = Entry(digest=digest, machine=machine, figures=dict(figures), pressure=pressure or Pressure()).sealed()
    content = Prepared(entries=(*others, entry))
    data = msgspec.json.format(msgspec.json.encode(content, order="sorted"), indent=2) + b"\n"
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise MeasureError(
            f"the figures cannot be kept in {path}", got=error.strerror, fix="make the folder of the bundle writable"
        ) from error
    return path


def _load_prepared(path: Path) -> Prepared:
    try:
        content = decode(read_regular(path, _MAX_PREPARED_BYTES), Prepared)
    except FileNotFoundError:
        return Prepared()
    except OSError as error:
        raise MeasureError(f"the figures in {path} cannot be read", got=str(error), fix="delete that file") from error
    except ValueError as error:  # msgspec's are among them
        logger.warning("the figures in %s are damaged and not used: %s", path, error)
        return Prepared()
    if content.schema != _PREPARED_SCHEMA:
        return Prepared()
    whole = tuple(entry for entry in content.entries if entry == entry.sealed())
    if len(whole) < len(content.entries):
        logger.warning("the figures in %s are damaged and not used: they do not fit their SHA-256", path)
    return Prepared(entries=whole)
