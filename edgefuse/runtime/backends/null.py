"""The backend that computes nothing: the floor of the runtime's own overhead, and a device without hardware."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgefuse.bundle.manifest import Binding
from edgefuse.runtime.backends.backend import Array, InputPorts, Session, SessionOptions


class NullBackend:
    """Opens anything; its sessions check their feeds and answer zeros."""

    name = "null"
    title = "nothing"
    suffix = ""

    def open(
        self, data: bytes, inputs: tuple[Binding, ...], outputs: tuple[Binding, ...], options: SessionOptions
    ) -> Session:
        """Return a session of the declared interface; the bytes are not looked at."""
        del data, options
        return NullSession(inputs, outputs)

    def versions(self) -> dict[str, str]:
        """Return nothing: there is no runtime."""
        return {}


class NullSession:
    """A session that answers zeros of its declared outputs (size 1 where a binding leaves it open)."""

    def __init__(self, inputs: tuple[Binding, ...], outputs: tuple[Binding, ...]) -> None:
        self._inputs = InputPorts(inputs)
        self._outputs = [(b.port, tuple(max(size, 1) for size in b.shape), np.dtype(b.dtype)) for b in outputs]

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Check the feeds and return zeros; see `Session.run`."""
        self._inputs.arrange(feeds)
        return {port: np.zeros(shape, dtype) for port, shape, dtype in self._outputs}
