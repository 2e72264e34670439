"""What the libraries that edgefuse imports would report to their makers, switched off.

`import edgefuse` does this before it imports anything else, so it holds for whatever imports those libraries later:
ours, another library, the user's model or data, and every process that is started from here.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from types import MappingProxyType

SWITCHES = MappingProxyType(
    {
        # Collects and uploads usage since 1.30 on Linux, too; it decides once, when its library is loaded.
        "ORT_DISABLE_TELEMETRY": "1",
    }
)
"""Environment variables that switch reporting off, with their values."""


def switch_off(environment: MutableMapping[str, str] | None = None) -> None:
    """Set what the user has not set.

    Args:
        environment: of this process, and those that it starts, if None.
    """
    environment = os.environ if environment is None else environment
    for name, value in SWITCHES.items():
        environment.setdefault(name, value)
