"""Resident memory of this process: now, and at its peak."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

_STATUS = Path("/proc/self/status")


def current_rss_bytes() -> int:
    """Return the resident set of this process now (its peak where the system does not tell)."""
    return _status_bytes("VmRSS") or _peak_from_usage()


def peak_rss_bytes() -> int:
    """Return the largest resident set that this process ever had.

    On Linux it is `VmHWM`, and not `ru_maxrss`: that one is inherited from the parent over fork and exec, so that a
    small process started by a large one reports the large one's peak.
    """
    return _status_bytes("VmHWM") or _peak_from_usage()


def _status_bytes(field: str) -> int:
    """Return a field of /proc/self/status in bytes, or 0 where there is none."""
    if not _STATUS.exists():
        return 0
    for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    return 0


def _peak_from_usage() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
