"""Memory that large requests took goes back to the system when they are answered.

glibc takes the first large block that is freed as a sign that more such come, and keeps the next ones: for each of its
arenas, of which there are eight for a processor, as much as the largest body. A service of 110 MB grew to 490 MB by
bodies of 16 MB that were all refused, and would have stayed so.
"""

from __future__ import annotations

import ctypes
import os
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Of mallopt(3); to set one of them also ends that they change by themselves."""
_LARGE_BYTES = 1 << 20
_VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_")


def give_back_large_blocks() -> bool:
    """Let the C library of this process keep no large blocks; whether it does so now.

    Nothing changes where whoever started the process has set one of its variables, and without glibc.
    """
    if not sys.platform.startswith("linux") or any(name in os.environ for name in _VARIABLES):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    return mallopt is not None and all(mallopt(name, _LARGE_BYTES) for name in (_TRIM_THRESHOLD, _MMAP_THRESHOLD))
