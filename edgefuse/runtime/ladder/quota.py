"""How many processors the system lets this process use: affinity, and the quotas of its control groups.

A process below its quota runs at full speed and cannot tell, from its own times, that a slower rung would not fit. So
the quota is read: of cgroup v2 (`cpu.max`) or v1 (`cpu.cfs_quota_us`), the least over a group and those above it
(Linux, Documentation/admin-guide/cgroup-v2.rst and Documentation/scheduler/sched-bwc.rst).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from edgefuse.runtime.processor import ROOT, available_processors

_FOLDERS = {"": ("", "unified"), "cpu": ("cpu", "cpu,cpuacct")}
"""Where a hierarchy is mounted below /sys/fs/cgroup, by its controller: v2 has none of its own."""


def processors(*, root: Path = ROOT) -> float:
    """Return how many processors this process may use; `root` holds /proc and /sys."""
    quotas = (share for folder in _groups(root) if (share := _quota(folder)) is not None)
    return min([float(available_processors()), *quotas])


def _groups(root: Path) -> Iterator[Path]:
    """Yield the folders of this process's groups, and of those above them."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        controller = "cpu" if "cpu" in controllers.split(",") else controllers
        for mounted in _FOLDERS.get(controller, ()):
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


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
