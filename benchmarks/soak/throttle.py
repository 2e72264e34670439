"""Half of a processor taken from this process: by a quota of the kernel where that can be set, else by stopping it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

PERIOD_US = 10_000
"""Half of each 10 ms is taken: short against a step, so that it is a slower processor and no series of pauses."""

_ROOT = Path("/sys/fs/cgroup")

_STOPPING = """
import os, signal, sys, time
process, half_s, end = int(sys.argv[1]), float(sys.argv[2]), time.monotonic() + float(sys.argv[3])
try:
    while time.monotonic() < end:
        os.kill(process, signal.SIGSTOP)
        time.sleep(half_s)
        os.kill(process, signal.SIGCONT)
        time.sleep(half_s)
finally:
    os.kill(process, signal.SIGCONT)
"""


class Throttle(Protocol):
    """Takes half of a processor away, for a while.

    Attributes:
        name: how.
    """

    name: str

    def begin(self, seconds: float) -> None:
        """Take it from now on, for so long at the most."""

    def end(self) -> None:
        """Give it back."""


class Quota:
    """A control group of its own for this process, in cgroup v2 or v1.

    Args:
        version: 2 or 1.
        top: where the hierarchy with the controller `cpu` is mounted.
    """

    def __init__(self, version: int, top: Path) -> None:
        self.name = f"a quota of half a processor (cgroup v{version}, {PERIOD_US / 1000:g} ms)"
        self._version, self._top, self._group = version, top, top / f"edgefuse-soak-{os.getpid()}"

    def enter(self) -> None:
        """Make the group and join it, or raise `OSError`."""
        if self._version == 2:
            (self._top / "cgroup.subtree_control").write_text("+cpu")
        self._group.mkdir()
        try:
            self.end()
            (self._group / "cgroup.procs").write_text(str(os.getpid()))
        except OSError:
            self._group.rmdir()
            raise

    def leave(self) -> None:
        """Go back to the top, and remove the group."""
        (self._top / "cgroup.procs").write_text(str(os.getpid()))
        self._group.rmdir()

    def begin(self, seconds: float) -> None:
        """Set the quota; it lasts until the end."""
        self._set(PERIOD_US // 2)

    def end(self) -> None:
        """Take the quota away."""
        self._set(None)

    def _set(self, quota_us: int | None) -> None:
        if self._version == 2:
            (self._group / "cpu.max").write_text(f"{'max' if quota_us is None else quota_us} {PERIOD_US}")
        else:
            (self._group / "cpu.cfs_period_us").write_text(str(PERIOD_US))
            (self._group / "cpu.cfs_quota_us").write_text(str(-1 if quota_us is None else quota_us))


class Stopping:
    """Another process that stops this one and lets it go on, by turns."""

    name = f"stopped for half of each {PERIOD_US / 1000:g} ms (SIGSTOP, SIGCONT)"

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def begin(self, seconds: float) -> None:
        """Start it; it ends by itself, should this process not come to it."""
        words = [sys.executable, "-c", _STOPPING, str(os.getpid()), str(PERIOD_US / 2e6), str(seconds)]
        self._process = subprocess.Popen(words)

    def end(self) -> None:
        """End it, running."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)  # which leaves by way of its last SIGCONT
            self._process.wait()
            self._process = None


@contextmanager
def throttle() -> Iterator[Throttle]:
    """Give what can take half of a processor here: a quota if this process may set one."""
    for version, top in ((2, _ROOT), (1, _ROOT / "cpu")):
        if version == 2 and not (top / "cgroup.controllers").exists():
            continue
        quota = Quota(version, top)
        with suppress(OSError):
            quota.enter()
            try:
                yield quota
            finally:
                quota.leave()
            return
    yield Stopping()
