"""Finds the lines: every module of `benchmarks.soak.lines` is one."""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

PACKAGE = "benchmarks.soak.lines"


def names() -> tuple[str, ...]:
    """Return the names of all lines, in order."""
    package = importlib.import_module(PACKAGE)
    return tuple(sorted(found.name for found in pkgutil.iter_modules(package.__path__)))


def module(name: str) -> ModuleType:
    """Return the module of a line."""
    return importlib.import_module(f"{PACKAGE}.{name}")
