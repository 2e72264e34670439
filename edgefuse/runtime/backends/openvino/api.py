"""OpenVINO's package: imported here and nowhere else, with the reports to its maker cut off.

`import openvino` and `import nncf` each import `openvino_telemetry`, which writes below the home folder and looks its
collector up (decision 089). No variable stops it; where it cannot be imported, both take stubs of their own.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

_REPORTS = "openvino_telemetry"


@contextmanager
def unreported() -> Iterator[None]:
    """Make the package that reports to Intel impossible to import, unless the user has imported it before."""
    blocked = _REPORTS not in sys.modules
    if blocked:
        sys.modules[_REPORTS] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if blocked:
            sys.modules.pop(_REPORTS, None)


with unreported():
    import openvino
    from openvino import opset13 as operators
    from openvino.frontend import FrontEndManager

__all__ = ["FrontEndManager", "openvino", "operators", "unreported"]
