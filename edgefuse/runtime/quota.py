"""What the system lets this process use: processors and memory, by its affinity and the limits of its control groups.

A process below its quota runs at full speed and cannot tell, from its own times, that a slower rung would not fit; and
one that is ended for the memory of its group saw a machine with plenty of it. So these limits are read: of cgroup v2
(`cpu.max`, `memory.max`) or v1 (`cpu.cfs_quota_us`, `memory.limit_in_bytes`), the least over a group and those above it
(Linux, Documentation/admin-guide/cgroup-v2.rst, cgroup-v1/memory.rst and Documentation/scheduler/sched-bwc.rst).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from edgefuse.runtime.processor import ROOT, available_processors

_UNIFIED = ("", "unified")
_FOLDERS = {"cpu": ("cpu", "cpu,cpuacct"), "memory": ("memory",)}
"""Where the hierarchy of a controller is mounted below /sys/fs/cgroup, of v1; v2 has one for all of them."""

_MEMORY = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))
_NO_LIMIT_BYTES = 1 << 62  # v1 has no word for it, and says the largest number of pages


def processors(*, root: Path = ROOT) -> float:
    """Return how many processors this process may use; `root` holds /proc and /sys."""
    quotas = (share for folder in _groups(root, "cpu") if (share := _quota(folder)) is not None)
    return min([float(available_processors()), *quotas])


def left_bytes(*, root: Path = ROOT) -> int | None:
    """Return how much memory the groups of this process may still take; None where none has a limit."""
    return min((left for folder in _groups(root, "memory") if (left := _left(folder)) is not None), default=None)


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of this process's groups, and of those above them."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        controllers, _, group = line.partition(":")[2].partition(":")
        if controllers and controller not in controllers.split(","):
            continue
        for mounted in _FOLDERS[controller] if controllers else _UNIFIED:
            top = root / "sys/fs/cgroup" / mounted
            names = [name for name in group.split("/") if name not in ("", "..")]
            yield from (top.joinpath(*names[:depth]) for depth in range(len(names), -1, -1))


def _quota(folder: Path) -> float | None:
    """Return the processors that a group may use; None where nothing limits it, or it is not to be seen."""
    words = _text(folder / "cpu.max").split()
    words = words or [*_text(folder / "cpu.cfs_quota_us").split(), *_text(folder / "cpu.cfs_period_us").split()]
    if len(words) != 2 or not all(word.isdecimal() for word in words) or not int(words[1]):  # "max", or -1
        return None
    return int(words[0]) / int(words[1])


def _left(folder: Path) -> int | None:
    """Return what a group may still take; None where nothing limits it, or it is not to be seen.

    What it has of files counts as free, as in the kernel's `MemAvailable`: it is given back where it is wanted.
    """
    for limit, usage in _MEMORY:
        most, used = (_text(folder / name).strip() for name in (limit, usage))
        if most.isdecimal() and used.isdecimal() and int(most) < _NO_LIMIT_BYTES:
            return min(max(int(most) - int(used), 0) + _of_files(folder), int(most))
    return None


def _of_files(folder: Path) -> int:
    """Return the bytes that a group has of files, those of groups below it among them."""
    lines = (line.split() for line in _text(folder / "memory.stat").splitlines())
    found = {words[0]: int(words[1]) for words in lines if len(words) == 2 and words[1].isdecimal()}
    names = ("active_file", "inactive_file")
    return sum(found.get(f"total_{name}", found.get(name, 0)) for name in names)  # v1 tells those below apart


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
