"""The backend for NVIDIA GPUs, by the best runtime that is there.

TensorRT's own Python API, else ONNX Runtime's TensorRT provider, else its CUDA provider. Without a GPU the graphs run
in ONNX Runtime on the CPU: that checks what they compute, and says nothing about speed.
"""

from __future__ import annotations

import logging
from typing import Literal

from edgefuse.bundle.manifest import Binding
from edgefuse.errors import BackendError, needing
from edgefuse.runtime.backends.backend import Backend, EngineBuilder, Session, SessionOptions, StandIn

log = logging.getLogger(__name__)


class TensorrtBackend:
    """Opens ONNX files whose precision stands in the graph.

    Raises:
        MissingExtraError: if neither TensorRT nor ONNX Runtime is installed.
    """

    name = "tensorrt"
    title = "TensorRT"
    suffix = ".onnx"
    device = "GPU"
    build_seconds = 3600.0

    def __init__(self) -> None:
        self._runtime = _best()

    def open(
        self, data: bytes, inputs: tuple[Binding, ...], outputs: tuple[Binding, ...], options: SessionOptions
    ) -> Session:
        """Open a file; see `EngineBackend.open` and `ProviderBackend`."""
        return self._runtime.open(data, inputs, outputs, options)

    def prepare(
        self, data: bytes, inputs: tuple[Binding, ...], options: SessionOptions
    ) -> Literal["built", "known", ""]:
        """Build the engine of a file, with TensorRT's own API; ONNX Runtime builds its own when a file is opened."""
        return self._runtime.prepare(data, inputs, options) if isinstance(self._runtime, EngineBuilder) else ""

    @property
    def stand_in(self) -> str:
        """What runs graphs on the CPU, where there is no GPU."""
        return self._runtime.stand_in if isinstance(self._runtime, StandIn) else ""

    def versions(self) -> dict[str, str]:
        """Return the versions of what was chosen, and where it runs."""
        return self._runtime.versions()


def _best() -> Backend:
    try:
        from edgefuse.runtime.backends.tensorrt.api import EngineBackend

        return EngineBackend()
    except (ImportError, OSError, BackendError) as error:  # no bindings, no libraries, no GPU
        log.info("TensorRT is not used: %s", error)
    with needing("the backend 'tensorrt'", extra="tensorrt"):
        from edgefuse.runtime.backends.tensorrt.providers import ProviderBackend
    return ProviderBackend()
