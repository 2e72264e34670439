"""Finds the lines: every module of a package of lines is one."""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

from edgefuse.errors import DataError

PACKAGE = "benchmarks.soak.lines"
"""Of the lines that are run where no other package is named."""


def names(package: str) -> tuple[str, ...]:
    """Return the names of all lines of a package, in order.

    Raises:
        DataError: there is no such package.
    """
    try:
        path = importlib.import_module(package).__path__
    except (ImportError, AttributeError, ValueError) as error:
        raise DataError("there is no such package of lines", got=repr(package), expected=PACKAGE) from error
    return tuple(sorted(found.name for found in pkgutil.iter_modules(path)))


def module(name: str, package: str) -> ModuleType:
    """Return the module of a line of a package."""
    return importlib.import_module(f"{package}.{name}")
