"""What all workers need, for the process that they are forked from: importing this module imports that."""

from __future__ import annotations

from contextlib import suppress

from edgefuse import registry
from edgefuse.compiler import compilation
from edgefuse.errors import EdgefuseError
from edgefuse.export.target import Preparing

__all__ = ["compilation"]


def _load_tools() -> None:
    for name in registry.names("targets"):
        with suppress(EdgefuseError):  # its packages are not installed: whoever needs it says so
            target = registry.create("targets", name)
            if isinstance(target, Preparing):
                target.load_tools()


_load_tools()
