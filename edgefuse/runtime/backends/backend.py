"""The protocol of a backend: how a stage's file is opened and run on a device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from edgefuse.bundle.manifest import Binding

Array: TypeAlias = npt.NDArray[np.generic]


class Session(Protocol):
    """An opened file. Not safe for concurrent calls of `run`."""

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once.

        Args:
            feeds: arrays under port names, of the types and shapes of the file's bindings.

        Returns:
            Arrays under port names. They stay valid and unchanged after the next call.
        """


@dataclass(frozen=True)
class SessionOptions:
    """How files are opened: `threads` per session; `spinning` lets idle threads burn a core for latency."""

    threads: int = 1
    spinning: bool = False


class Backend(Protocol):
    """A runtime that opens files of one format."""

    name: str

    def open(
        self, data: bytes, inputs: tuple[Binding, ...], outputs: tuple[Binding, ...], options: SessionOptions
    ) -> Session:
        """Open a file from its bytes, or raise `BackendError`."""

    def versions(self) -> dict[str, str]:
        """Return the versions of the runtime, by distribution name."""
