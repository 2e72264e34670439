"""ONNX Runtime's package: imported here and nowhere else, after `import edgefuse` has switched its telemetry off.

The library decides about telemetry when it is loaded, and keeps to it as long as the process lives.
"""

from __future__ import annotations

import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as state

__all__ = ["onnxruntime", "state"]
