"""Find targets, backends and other extensions (`Kind`) by name through entry points; the built-ins use them too."""

from __future__ import annotations

from importlib.metadata import entry_points
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
    for entry in entry_points(group=f"edgefuse.{kind}", name=name):
        with needing(f"the {kind[:-1]} '{name}'", extra=name if kind in ("backends", "engines") else "compile"):
            factory = entry.load()
        return factory(*arguments)
    raise _ERRORS[kind](f"unknown {kind[:-1]} '{name}'", expected=" or ".join(names(kind)))
