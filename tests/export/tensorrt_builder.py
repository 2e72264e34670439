"""For the tests of TensorRT's builder: what says why they are skipped where it is not installed."""

from __future__ import annotations

import os
import platform
import sys

import pytest

from edgefuse.export.tensorrt import builder

THERE_IS_ONE = sys.platform == "linux" and platform.machine() == "x86_64" and sys.version_info < (3, 15)
"""Whether there are wheels for this machine: then CI has them, and their absence is a failure."""

MISSING = not builder.installed() and not (os.environ.get("CI") and THERE_IS_ONE)
needs_builder = pytest.mark.skipif(
    MISSING, reason="TensorRT for RTX is not installed (edgefuse[tensorrt-build]): no graph is built"
)
