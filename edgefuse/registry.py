"""Find targets, backends and other extensions (`Kind`) by name through entry points; the built-ins use them too."""

from __future__ import annotations

import sys
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from edgefuse.errors import (
    BackendError,
    DeviceError,
    EdgefuseError,
    EngineError,
    ExportError,
    PruneError,
    QuantizeError,
    needing,
)

Kind = Literal["backends", "targets", "quantizers", "pruners", "engines", "devices"]

_ERRORS: dict[Kind, type[EdgefuseError]] = {
    "backends": BackendError,
    "targets": ExportError,
    "quantizers": QuantizeError,
    "pruners": PruneError,
    "engines": EngineError,
    "devices": DeviceError,
}


def names(kind: Kind) -> tuple[str, ...]:
    """Return the registered names of a kind, sorted."""
    from importlib.metadata import entry_points  # see `_registered`

    return tuple(sorted({entry.name for entry in entry_points(group=f"edgefuse.{kind}")}))


def create(kind: Kind, name: str, *arguments: object) -> Any:
    """Import what is registered under a name and create it with `arguments`.

    Args:
        kind: of extension.
        name: that it is registered under.
        *arguments: of its class.

    Raises:
        BackendError, ExportError, QuantizeError, PruneError, EngineError, DeviceError: if the name is unknown.
        MissingExtraError: if its dependency is not installed.
    """
    if place := _registered(f"edgefuse.{kind}", name):
        module, _, attribute = place.partition(":")
        with needing(f"the {kind[:-1]} '{name}'", extra=name if kind in ("backends", "engines") else "compile"):
            factory = getattr(import_module(module), attribute)
        return factory(*arguments)
    raise _ERRORS[kind](f"unknown {kind[:-1]} '{name}'", expected=" or ".join(names(kind)))


def _registered(group: str, name: str) -> str | None:
    """Return the entry point of a name, `module:class`; None if there is none.

    A device pays for what it imports: importlib.metadata and what that needs (email, csv) take 3.4 MB of memory, a
    twelfth of the bare runtime. So the folders on the path are looked through here first, and archives by it.
    """
    for folder in sys.path:
        for file in sorted(Path(folder or ".").glob("*.*-info/entry_points.txt")):
            with suppress(OSError, UnicodeDecodeError):  # of another package: its own trouble
                if place := _entry(file.read_text(encoding="utf-8"), group, name):
                    return place
    from importlib.metadata import entry_points

    return next((entry.value for entry in entry_points(group=group, name=name)), None)


def _entry(text: str, group: str, name: str) -> str | None:
    section = ""
    for line in map(str.strip, text.splitlines()):
        if line.startswith("["):
            section = line.strip("[]")
        elif section == group and line.partition("=")[0].strip() == name:
            return line.partition("=")[2].partition("[")[0].strip()
    return None
