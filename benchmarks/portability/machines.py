"""Processors and interpreters that the device part of edgefuse can be run on from here.

This machine's own Pythons; Debian's newer one, run by its own loader with its own libraries; and Debian's arm64 one
under an emulator that has the instructions of one processor and no others. Times under emulation mean nothing.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path

import edgefuse
from benchmarks.portability import debian

PROCESSORS = ("cortex-a53", "cortex-a76", "neoverse-n1")
"""The emulated ones: no int8 dot product (as a Raspberry Pi 3), with it (Raspberry Pi 5), with it on a server."""
_OTHER_PYTHONS = ("3.10", "3.11", "3.12", "3.13")
_TELL_VERSION = "import platform; print(platform.python_version())"
# One thread each, and nothing of the user's: no packages, no settings.
_VARIABLES = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error", "PYTHONIOENCODING": "utf-8"}


@dataclass(frozen=True)
class Machine:
    """A processor with a Python.

    Attributes:
        name: of the processor, as tables show it.
        architecture: as wheels name it: `x86_64`, `aarch64`.
        command: starts the interpreter.
        python: its version, such as `3.13.5`.
    """

    name: str
    architecture: str
    command: tuple[str, ...]
    python: str

    @property
    def series(self) -> str:
        """The version that wheels are made for: `3.13`."""
        return ".".join(self.python.split(".")[:2])


@dataclass(frozen=True)
class Device:
    """A machine with packages and edgefuse on it.

    Attributes:
        site: the folder of packages.
        project: the folder that `install` made.
        cache: for bytecode, which costs the emulator more to make than to read.
    """

    machine: Machine
    site: Path
    project: Path
    cache: Path

    def __call__(
        self, *arguments: str | Path, folder: Path | None = None, seconds: float = 3600.0
    ) -> subprocess.CompletedProcess[str]:
        """Run the interpreter; without `site`, so that nothing but `site` and edgefuse can be imported."""
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "LD_", "QEMU_"))}
        paths = f"{self.project.resolve()}{os.pathsep}{self.site.resolve()}"
        prefix = str((self.cache / "bytecode" / self.machine.architecture).resolve())
        variables = {**clean, **_VARIABLES, "PYTHONPATH": paths, "PYTHONPYCACHEPREFIX": prefix}
        command = [*self.machine.command, "-S", *map(str, arguments)]
        return subprocess.run(
            command, cwd=folder, env=variables, capture_output=True, text=True, timeout=seconds, check=False
        )


def install(folder: Path) -> Path:
    """Make a folder with edgefuse in it, as an installed package that has entry points; return the folder."""
    metadata = folder / f"edgefuse-{edgefuse.__version__}.dist-info"
    metadata.mkdir(parents=True)
    (folder / "edgefuse").symlink_to(Path(edgefuse.__file__).resolve().parent)
    about = f"Metadata-Version: 2.1\nName: edgefuse\nVersion: {edgefuse.__version__}\n"
    (metadata / "METADATA").write_text(about, encoding="utf-8")
    entries = distribution("edgefuse").read_text("entry_points.txt") or ""
    (metadata / "entry_points.txt").write_text(entries, encoding="utf-8")
    return folder


def this() -> Machine:
    """Return this processor with the Python that runs this."""
    return Machine(_own(), platform.machine(), (sys.executable,), platform.python_version())


def others() -> Iterator[Machine]:
    """Yield this processor with each other Python that can be found: on the search path, or among pyenv's."""
    for series in _OTHER_PYTHONS:
        if series == this().series:
            continue
        for program in _interpreters(series):
            version = _version((program,))
            if version.startswith(f"{series}."):
                yield Machine(_own(), platform.machine(), (program,), version)
                break


def newer(cache: Path) -> Machine:
    """Return this processor with Debian's newer Python.

    Raises:
        DataError: it cannot be put together here.
    """
    architecture = debian.own_architecture()
    root = debian.unpacked(debian.PYTHON_PACKAGES, architecture, cache)
    (loader,) = (root / "usr/lib").glob("*-linux-gnu/ld-linux-*")
    command = (str(loader), "--library-path", str(loader.parent), str(root / "usr/bin" / debian.PYTHON))
    return Machine(_own(), platform.machine(), command, _version(command))


def emulated(cache: Path, processors: Sequence[str] = PROCESSORS) -> list[Machine]:
    """Return emulated Arm processors with Debian's Python.

    Raises:
        DataError: they cannot be put together here.
    """
    own = debian.own_architecture()
    emulator = debian.unpacked(debian.EMULATOR_PACKAGES, own, cache, only=debian.EMULATOR) / debian.EMULATOR
    root = debian.unpacked(debian.PYTHON_PACKAGES, "arm64", cache)
    made = []
    for processor in processors:
        command = (str(emulator), "-cpu", processor, "-L", str(root), str(root / "usr/bin" / debian.PYTHON))
        made.append(Machine(f"{processor} (emulated)", "aarch64", command, _version(command)))
    return made


def _own() -> str:
    return platform.machine().replace("_", "-")


def _interpreters(series: str) -> list[str]:
    found = shutil.which(f"python{series}")
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    kept = sorted(pyenv.glob(f"{series}.*/bin/python{series}"))
    return [*([found] if found else []), *map(str, reversed(kept))]


def _version(command: Sequence[str]) -> str:
    """Ask an interpreter for its version; empty where there is none, as behind a shim of pyenv."""
    done = subprocess.run([*command, "-S", "-c", _TELL_VERSION], capture_output=True, text=True, check=False)
    said = done.stdout.strip()
    return said if done.returncode == 0 and re.fullmatch(r"3\.\d+\.\S+", said) else ""
