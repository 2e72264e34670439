"""What the CPU is, read from /proc/cpuinfo of machines that are not here."""

from __future__ import annotations

import platform
from pathlib import Path

from edgefuse.runtime.processor import Processor, processor

HERE = platform.machine().lower()
X86 = "".join(
    f"processor\t: {index}\nmodel name\t: Some  CPU @ 2 GHz\nphysical id\t: 0\ncore id\t\t: {index // 2}\n"
    "flags\t\t: fpu avx2 avx512f avx512_vnni sse\n\n"
    for index in range(4)
)
ARM = "".join(
    f"processor\t: {index}\nFeatures\t: fp asimd asimddp\nCPU implementer\t: 0x41\nCPU part\t: 0xd42\n\n"
    for index in range(6)
)


def read(root: Path, cpuinfo: str) -> Processor:
    path = root / "proc" / "cpuinfo"
    path.parent.mkdir()
    path.write_text(cpuinfo)
    return processor(root=root)


def test_an_x86_is_read_from_cpuinfo(tmp_path: Path) -> None:
    cpu = read(tmp_path, X86)
    assert (cpu.name, cpu.physical_cores, cpu.logical_cores) == ("Some CPU @ 2 GHz", 2, 4)
    assert cpu.features == ("avx2", "avx512_vnni", "avx512f")
    assert cpu.has("avx_vnni", "avx2")
    assert not cpu.has("avx_vnni")


def test_an_arm_core_is_named_by_its_part(tmp_path: Path) -> None:
    cpu = read(tmp_path, ARM + "Hardware\t: board\n")
    assert (cpu.name, cpu.physical_cores, cpu.features) == ("Arm Cortex-A78AE", 6, ("asimddp",))


def test_a_cpu_without_features_differs_from_one_that_does_not_tell(tmp_path: Path) -> None:
    assert read(tmp_path, "processor\t: 0\nflags\t\t: fpu sse\n").features == ()
    silent = processor(root=tmp_path / "empty")
    assert silent.features is None
    assert silent.name
    assert silent.logical_cores >= 1
    assert not silent.has("avx2")


def test_the_architecture_has_one_name_everywhere() -> None:
    assert processor().architecture == {"amd64": "x86_64", "arm64": "aarch64"}.get(HERE, HERE)
