"""`edgefuse doctor`: the runtimes and the condition of this machine."""

from __future__ import annotations

import argparse
import platform
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, requires, version

from edgefuse import __version__, registry
from edgefuse.commands import console
from edgefuse.errors import BackendError, MissingExtraError
from edgefuse.runtime import signals
from edgefuse.runtime.backends.backend import Backend, Describing, Saturating
from edgefuse.runtime.processor import VNNI, Processor, processor
from edgefuse.runtime.signals import Condition

_EXTRAS = ("media", "compile")
"""Those that are looked into; what a backend's extra brings is told by the backend."""

_REQUIREMENT = re.compile(r"""(?P<name>[\w.-]+)[^;\[]*;.*extra == ['"](?P<extra>[\w-]+)['"]""")
_COMPILERS = ("c++", "g++", "clang++")


@dataclass(frozen=True)
class BackendState:
    """A backend: the versions behind it and what else it says of itself, or why it is not to be had.

    Attributes:
        saturating: whether sums of its int8 products are clipped on some CPUs.
    """

    versions: dict[str, str]
    missing: str | None = None
    about: dict[str, str] = field(default_factory=dict)
    saturating: bool = False


@dataclass(frozen=True)
class Diagnosis:
    """Everything that doctor reports; a part that is not installed is None.

    Attributes:
        int8: what the CPU means for int8 arithmetic, in sentences.
        packages: by extra, what it installs with the version that is here.
    """

    edgefuse: str
    python: str
    numpy: str
    system: str
    processor: Processor
    int8: tuple[str, ...]
    condition: Condition
    backends: dict[str, BackendState]
    packages: dict[str, dict[str, str | None]]
    cxx_compiler: str | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--json", action="store_true", help="write JSON")


def run(arguments: argparse.Namespace, extra: Sequence[str]) -> int:
    """Examine this machine and print the findings."""
    cpu = processor()
    backends = {name: _backend(name) for name in registry.names("backends")}
    diagnosis = Diagnosis(
        edgefuse=__version__,
        python=platform.python_version(),
        numpy=version("numpy"),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        processor=cpu,
        int8=int8_here(cpu, backends),
        condition=signals.condition(),
        backends=backends,
        packages=_packages(),
        cxx_compiler=next((path for name in _COMPILERS if (path := shutil.which(name))), None),
    )  # fmt: skip
    if arguments.json:
        console.write_json(diagnosis)
    else:
        _print(diagnosis)
    return 0


def int8_here(cpu: Processor, backends: Mapping[str, BackendState]) -> tuple[str, ...]:
    """Say what follows from a CPU's features for int8 (decision 055).

    Args:
        cpu: of this machine.
        backends: by name.
    """
    if cpu.features is None:
        return ("this system does not tell CPU features: edgefuse verify tells whether a bundle computes right here",)
    if cpu.architecture == "x86_64":
        return _int8_on_x86(cpu, backends)
    if cpu.has("asimddp", "i8mm"):
        matrices = ", and i8mm multiplies int8 matrices" if cpu.has("i8mm") else ""
        return (f"the dot product makes int8 fast{matrices}: s8 activations (static_wi8_ai8.s8), nothing saturates",)
    return ("no dot product (asimddp): int8 is exact but gains little over float: measure before you choose it",)


def _int8_on_x86(cpu: Processor, backends: Mapping[str, BackendState]) -> tuple[str, ...]:
    if cpu.has(*VNNI):
        return (
            "VNNI: nothing saturates; u8 activations (static_wi8_ai8.u8) are fast where uint8 is multiplied by int8",
            "AMX multiplies int8 tiles" if cpu.has("amx_int8") else "no AMX",
        )
    clipping = [name for name, found in backends.items() if found.saturating]
    exact = [name for name, found in backends.items() if not (found.missing or found.saturating)]
    return (
        f"no VNNI: sums of uint8 x int8 are clipped in {', '.join(clipping)}: answers go wrong, and 'edgefuse verify' "
        "names the rungs",
        f"exact instead: float, static_wi8_ai8.s8 (slow here), or the int8 of {', '.join(exact)}",
    )


def _backend(name: str) -> BackendState:
    try:
        backend: Backend = registry.create("backends", name)
        about = backend.about() if isinstance(backend, Describing) else {}
        return BackendState(backend.versions(), about=about, saturating=isinstance(backend, Saturating))
    except (MissingExtraError, BackendError) as error:
        return BackendState({}, str(error))


def _packages() -> dict[str, dict[str, str | None]]:
    """Return what each extra installs, by the metadata of this package, with versions."""
    found: dict[str, dict[str, str | None]] = {}
    for requirement in requires("edgefuse") or ():
        if match := _REQUIREMENT.match(requirement):
            found.setdefault(match["extra"], {})[match["name"]] = _version(match["name"])
    return {extra: found[extra] for extra in _EXTRAS if extra in found}


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


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
    backends = []
    for name, found in diagnosis.backends.items():
        backends += [(name, _spelled(found)), *((f"{name} {key}", text) for key, text in found.about.items())]
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


def _spelled(found: BackendState) -> str:
    versions = ", ".join(f"{distribution} {number}" for distribution, number in found.versions.items())
    return found.missing or versions or "built in"


def _frequency(state: Condition) -> str | None:
    if state.frequency_mhz is None:
        return None
    return f"{state.frequency_mhz:.0f} MHz" + (f" of {state.max_frequency_mhz:.0f}" if state.max_frequency_mhz else "")
