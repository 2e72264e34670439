"""`edgefuse doctor`: what this machine offers, and in which condition it is."""

from __future__ import annotations

import argparse
import importlib.util
import platform
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from edgefuse import __version__, registry
from edgefuse.commands import console
from edgefuse.errors import BackendError, MissingExtraError
from edgefuse.measure import machine
from edgefuse.measure.machine import Condition, Processor
from edgefuse.runtime.backends.backend import Backend

# Per extra: (module, distribution) of what it brings.
_EXTRAS = {
    "media": (("PIL", "Pillow"), ("soundfile", "soundfile"), ("soxr", "soxr"), ("tokenizers", "tokenizers")),
    "compile": (
        ("torch", "torch"),
        ("onnx", "onnx"),
        ("onnxscript", "onnxscript"),
        ("litert_torch", "litert-torch"),
        ("ai_edge_quantizer", "ai-edge-quantizer"),
    ),
}
_COMPILERS = ("c++", "g++", "clang++")


@dataclass(frozen=True)
class Found:
    """A backend: the versions behind it, or why it is not to be had."""

    versions: dict[str, str]
    missing: str | None = None


@dataclass(frozen=True)
class Diagnosis:
    """Everything that doctor says; what is not installed is None."""

    edgefuse: str
    python: str
    system: str
    processor: Processor
    condition: Condition
    backends: dict[str, Found]
    packages: dict[str, dict[str, str | None]]
    cxx_compiler: str | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--json", action="store_true", help="write JSON")


def run(arguments: argparse.Namespace, extra: Sequence[str]) -> int:
    """Look at everything and say what was found."""
    diagnosis = Diagnosis(
        edgefuse=__version__,
        python=platform.python_version(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        processor=machine.processor(),
        condition=machine.condition(),
        backends={name: _backend(name) for name in registry.names("backends")},
        packages={
            name: {dist: _version(module, dist) for module, dist in parts} for name, parts in _EXTRAS.items()
        },
        cxx_compiler=next((path for name in _COMPILERS if (path := shutil.which(name))), None),
    )  # fmt: skip
    if arguments.json:
        console.write_json(diagnosis)
    else:
        _print(diagnosis)
    return 0


def _backend(name: str) -> Found:
    try:
        backend: Backend = registry.create("backends", name)
        return Found(backend.versions())
    except (MissingExtraError, BackendError) as error:
        return Found({}, str(error))


def _version(module: str, distribution: str) -> str | None:
    """Return the version of a distribution whose module is there, without importing it."""
    if importlib.util.find_spec(module) is None:
        return None
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "unknown"


def _print(diagnosis: Diagnosis) -> None:
    cpu, state = diagnosis.processor, diagnosis.condition
    console.write(f"edgefuse {diagnosis.edgefuse}, Python {diagnosis.python}, {diagnosis.system}")
    rows = [
        ("board", state.board),
        ("CPU", f"{cpu.name}, {cpu.physical_cores} cores, {cpu.logical_cores} threads"),
        ("CPU features", " ".join(cpu.features) or "none that edgefuse asks for"),
        ("governor", state.governor),
        ("frequency", _frequency(state)),
        ("temperature", ", ".join(f"{zone} {value:.0f} °C" for zone, value in state.temperatures_c.items()) or None),
        ("throttled by heat", None if state.throttled is None else f"{state.throttled} times since the start"),
        ("power mode", state.power_mode),
        ("C++ compiler", diagnosis.cxx_compiler or "none: torch.compile cannot be measured"),
    ]
    console.write("machine")
    console.write(console.pairs([(name, value or "not told by this system") for name, value in rows]))
    console.write("backends")
    console.write(console.pairs([(name, _spelled(found)) for name, found in diagnosis.backends.items()]))
    for extra, packages in diagnosis.packages.items():
        console.write(f"extra '{extra}'" + ("" if all(packages.values()) else f": pip install 'edgefuse[{extra}]'"))
        console.write(console.pairs([(name, number or "not installed") for name, number in packages.items()]))


def _spelled(found: Found) -> str:
    versions = ", ".join(f"{distribution} {number}" for distribution, number in found.versions.items())
    return found.missing or versions or "built in"


def _frequency(state: Condition) -> str | None:
    if state.frequency_mhz is None:
        return None
    return f"{state.frequency_mhz:.0f} MHz" + (f" of {state.max_frequency_mhz:.0f}" if state.max_frequency_mhz else "")
