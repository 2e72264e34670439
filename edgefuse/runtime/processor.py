"""The CPU that this process runs on: its name, its cores, and what decides the speed and the exactness of int8.

And how many threads may compute on it: one rule for the command line, recipes, pipelines, backends and device agents.
"""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path

from edgefuse.errors import InputError

ROOT = Path("/")
# As Linux and manifests spell them.
FEATURES = (
    *("amx_int8", "asimddp", "avx2", "avx512_vnni", "avx512f"),
    *("avx_vnni", "avx_vnni_int8", "i8mm", "sve"),
)
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


VNNI = ("amx_int8", "avx512_vnni", "avx_vnni", "avx_vnni_int8")
"""CPU features each of which adds up products of int8 in 32 bits."""


@dataclass(frozen=True)
class Processor:
    """The CPU. `features` are those of `FEATURES` that it has, sorted; None where the system does not tell."""

    name: str
    architecture: str
    physical_cores: int
    logical_cores: int
    features: tuple[str, ...] | None

    def has(self, *features: str) -> bool:
        """Return whether it is known to have one of these features."""
        return not set(features).isdisjoint(self.features or ())

    @property
    def clips_int8(self) -> bool:
        """Whether it adds up products of uint8 and int8 in 16 bits (VPMADDUBSW), as x86 without VNNI does.

        False where its features are not known.
        """
        return self.architecture == "x86_64" and self.features is not None and not self.has(*VNNI)


def processor(*, root: Path = ROOT) -> Processor:
    """Read what the CPU is from /proc/cpuinfo below `root`, or from Python where there is none."""
    blocks = _cpuinfo(root)
    logical = len(blocks) or os.cpu_count() or 1
    first = blocks[0] if blocks else {}
    flags = first.get("flags") or first.get("Features")
    cores = {(block.get("physical id"), block["core id"]) for block in blocks if "core id" in block}
    part = (first.get("CPU implementer", ""), first.get("CPU part", ""))
    name = first.get("model name") or _ARM_PARTS.get(part) or " ".join(part).strip() or platform.processor()
    machine = platform.machine().lower()
    return Processor(
        name=re.sub(r"\s+", " ", name) or "unknown",
        architecture=_MAIN_ARCHITECTURES.get(machine, machine),
        physical_cores=len(cores) or logical,
        logical_cores=logical,
        features=None if flags is None else tuple(feature for feature in FEATURES if feature in flags.split()),
    )


def available_processors() -> int:
    """Return how many logical processors this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def checked_threads(threads: int) -> int:
    """Return a number of threads that inference may use here.

    More threads than processors only wait for each other; thousands of them hang ONNX Runtime and kill LiteRT.

    Raises:
        InputError: if it is not a whole number from 1 to the processors of this process.
    """
    most = available_processors()
    if isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= most:
        raise InputError(
            "the number of threads does not fit this machine",
            got=repr(threads),
            expected=f"1 to {most}, the processors that this process may use" if most > 1 else "1, its only processor",
        )
    return threads


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
