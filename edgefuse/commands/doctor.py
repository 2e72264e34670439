"""`edgefuse doctor`: the runtimes and the condition of this machine."""

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
from edgefuse.runtime import signals
from edgefuse.runtime.backends.backend import Backend
from edgefuse.runtime.processor import Processor, processor
from edgefuse.runtime.signals import Condition
from edgefuse.runtime.suitability import VNNI

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
    """Everything that doctor reports; a part that is not installed is None.

    Attributes:
        int8: what the CPU means for int8 arithmetic, in sentences.
        onnxruntime_providers: what the installed onnxruntime was built with, best first.
    """

    edgefuse: str
    python: str
    numpy: str
    system: str
    processor: Processor
    int8: tuple[str, ...]
    condition: Condition
    backends: dict[str, Found]
    onnxruntime_providers: tuple[str, ...]
    packages: dict[str, dict[str, str | None]]
    cxx_compiler: str | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--json", action="store_true", help="write JSON")


def run(arguments: argparse.Namespace, extra: Sequence[str]) -> int:
    """Examine this machine and print the findings."""
    cpu = processor()
    diagnosis = Diagnosis(
        edgefuse=__version__,
        python=platform.python_version(),
        numpy=version("numpy"),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        processor=cpu,
        int8=int8_here(cpu),
        condition=signals.condition(),
        backends={name: _backend(name) for name in registry.names("backends")},
        onnxruntime_providers=_onnxruntime_providers(),
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


def int8_here(cpu: Processor) -> tuple[str, ...]:
    """Say what follows from a CPU's features for int8 (decision 055)."""
    if cpu.features is None:
        return ("this system does not tell CPU features: edgefuse verify tells whether a bundle computes right here",)
    if cpu.architecture == "x86_64":
        return _int8_on_x86(cpu)
    if cpu.has("asimddp", "i8mm"):
        matrices = ", and i8mm multiplies int8 matrices" if cpu.has("i8mm") else ""
        return (f"the dot product makes int8 fast{matrices}: s8 activations (static_wi8_ai8.s8), nothing saturates",)
    return ("no dot product (asimddp): int8 is exact but gains little over float: measure before you choose it",)


def _int8_on_x86(cpu: Processor) -> tuple[str, ...]:
    if cpu.has(*VNNI):
        return (
            "VNNI: nothing saturates; u8 activations (static_wi8_ai8.u8) are the fast ones in ONNX Runtime",
            "AMX multiplies int8 tiles" if cpu.has("amx_int8") else "no AMX",
        )
    return (
        "no VNNI: uint8 x int8 saturates in ONNX Runtime (static_wi8_ai8.u8, dynamic_wi8_af32): answers go wrong",
        "exact instead: float, static_wi8_ai8.s8 (slow here), or a TFLite bundle",
    )


def _onnxruntime_providers() -> tuple[str, ...]:
    try:
        from edgefuse.runtime.backends.onnx.backend import providers
    except ModuleNotFoundError:
        return ()
    return providers()


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
    console.write(
        f"edgefuse {diagnosis.edgefuse}, Python {diagnosis.python}, numpy {diagnosis.numpy}, {diagnosis.system}"
    )
    console.write("machine")
    rows = _machine_rows(diagnosis.processor, diagnosis.condition)
    rows.append(("C++ compiler", diagnosis.cxx_compiler or "none: torch.compile cannot be measured"))
    console.write(console.pairs([(name, value or "not told by this system") for name, value in rows]))
    console.write("int8 here")
    console.write(f"  {sentence}" for sentence in diagnosis.int8)
    console.write("backends")
    backends = [(name, _spelled(found)) for name, found in diagnosis.backends.items()]
    if diagnosis.onnxruntime_providers:
        backends.append(("onnxruntime's providers", ", ".join(diagnosis.onnxruntime_providers)))
    console.write(console.pairs(backends))
    for extra, packages in diagnosis.packages.items():
        console.write(f"extra '{extra}'" + ("" if all(packages.values()) else f": pip install 'edgefuse[{extra}]'"))
        console.write(console.pairs([(name, number or "not installed") for name, number in packages.items()]))


def _machine_rows(cpu: Processor, state: Condition) -> list[tuple[str, str | None]]:
    features = None if cpu.features is None else " ".join(cpu.features) or "none that edgefuse asks for"
    heat = ", ".join(f"{zone} {value:.0f} °C" for zone, value in state.temperatures_c.items())
    held = ", ".join(f"{name} {steps}" for name, steps in state.cooling.items())
    pinned = {None: None, True: "pinned to one frequency", False: "free to change"}[state.clocks_pinned]
    return [
        ("board", state.board),
        ("CPU", f"{cpu.name} ({cpu.architecture}), {cpu.physical_cores} cores, {cpu.logical_cores} threads"),
        ("CPU features", features),
        ("memory", _memory(state)),
        ("governor", state.governor),
        ("frequency", _frequency(state)),
        ("clocks", pinned),
        ("temperature", heat or None),
        ("throttled by heat", None if state.throttled is None else f"{state.throttled} times since the start"),
        ("held back now", held or ("by nothing" if heat else None)),
        ("power mode", state.power_mode),
    ]


def _memory(state: Condition) -> str | None:
    if state.memory_bytes is None:
        return None
    return f"{console.size(state.memory_bytes)}, {console.size(state.available_bytes)} of it available"


def _spelled(found: Found) -> str:
    versions = ", ".join(f"{distribution} {number}" for distribution, number in found.versions.items())
    return found.missing or versions or "built in"


def _frequency(state: Condition) -> str | None:
    if state.frequency_mhz is None:
        return None
    return f"{state.frequency_mhz:.0f} MHz" + (f" of {state.max_frequency_mhz:.0f}" if state.max_frequency_mhz else "")
