"""What the CPU is, read from /proc/cpuinfo of machines that are not here."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import pytest

from edgefuse.errors import InputError
from edgefuse.runtime.backends.backend import SessionOptions
from edgefuse.runtime.processor import Processor, available_processors, checked_threads, processor

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


@pytest.mark.parametrize("threads", [0, -1, 9, 100_000, True, 1.0, "2", None])
def test_threads_are_one_to_the_processors_of_this_process(threads: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert [checked_threads(number) for number in (1, 8)] == [1, 8]
    expected = "expected 1 to 8, the processors that this process may use."
    for check in (checked_threads, lambda number: SessionOptions(threads=number)):
        with pytest.raises(InputError) as caught:
            check(threads)
        assert str(caught.value) == f"the number of threads does not fit this machine: got {threads!r}, {expected}"


def test_one_processor_allows_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3}, raising=False)
    with pytest.raises(InputError, match=r"got 2, expected 1, its only processor"):
        checked_threads(2)


def test_a_system_without_affinity_counts_its_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert available_processors() == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert available_processors() == 1
