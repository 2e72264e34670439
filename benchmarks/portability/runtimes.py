"""Which versions of the runtimes a machine is given: the newest and the oldest that edgefuse supports."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from benchmarks.portability import machines, wheels
from benchmarks.portability.machines import Device, Machine
from edgefuse.errors import DataError

PACKAGES = {"onnx": ("onnxruntime",), "tflite": ("ai-edge-litert", "tflite-runtime")}
"""What may run the files of a backend, by its distribution."""
_BASE = ("numpy", "msgspec")
# Where a Python is younger than the oldest version that is supported.
_FIRST_WHEELS = {("ai-edge-litert", "3.13"): "ai-edge-litert==2.1.0"}
# The last tflite-runtime (2023).
PREDECESSOR = ("numpy<2", "msgspec", "tflite-runtime==2.14.0")
PREDECESSORS_PYTHON = "3.11"  # the newest that it has wheels for


@dataclass(frozen=True)
class Placement:
    """A machine with some packages, still to be put together."""

    machine: Machine
    requirements: tuple[str, ...]

    def device(self, project: Path, cache: Path) -> Device:
        """Put it together.

        Raises:
            DataError: if pip has no such wheels.
        """
        site = wheels.site(self.requirements, self.machine.series, self.machine.architecture, cache)
        return Device(self.machine, site, project, cache)

    def provides(self, backend: str) -> str:
        """Return which package runs the files of a backend here, as it is required; empty if none does."""
        named = (line for line in self.requirements if line.startswith(PACKAGES[backend]))
        return next(named, "")


def newest() -> tuple[str, ...]:
    """Return the packages of a device, the runtimes at most as new as those that this environment compiles with."""
    runtimes = (packages[0] for packages in PACKAGES.values())
    return (*_BASE, *(f"{package}<={version(package)}" for package in runtimes))


def oldest(series: str) -> tuple[str, ...]:
    """Return the packages of a device, the runtimes as old as its extras allow and wheels for its Python exist.

    Raises:
        DataError: if an extra names no lower bound.
    """
    allowed = {packages[0]: wheels.oldest(packages[0], extra) for extra, packages in PACKAGES.items()}
    return (*_BASE, *(_FIRST_WHEELS.get((package, series), line) for package, line in allowed.items()))


def own() -> list[Placement]:
    """Return this Python with the newest runtimes, which others are held to, and with the oldest."""
    machine = machines.this()
    return [Placement(machine, packages) for packages in (newest(), oldest(machine.series))]


def placements(cache: Path, problems: list[str]) -> list[Placement]:
    """Return everything that can be tried here, this Python with the newest runtimes first: what others are held to.

    Args:
        cache: of everything that is kept between runs.
        problems: gets a sentence for every machine that cannot be put together.
    """
    this = machines.this()
    here = {this.series: this} | {machine.series: machine for machine in machines.others()}
    emulated: Iterable[Machine] = ()
    try:
        newer = machines.newer(cache)
        here |= {newer.series: newer} if newer.series != this.series else {}
        emulated = machines.emulated(cache)
    except DataError as error:
        problems.append(str(error))
    others = [here[series] for series in sorted(here, key=_number) if series != this.series]
    found = own()
    found += [Placement(machine, packages) for machine in others for packages in (newest(), oldest(machine.series))]
    if PREDECESSORS_PYTHON in here:
        found.append(Placement(here[PREDECESSORS_PYTHON], PREDECESSOR))
    return [*found, *(Placement(machine, newest()) for machine in emulated)]


def _number(series: str) -> tuple[int, ...]:
    return tuple(map(int, series.split(".")))
