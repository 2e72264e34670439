"""The backend for ONNX files on Intel's processors: OpenVINO on the CPU."""

from __future__ import annotations

from collections.abc import Mapping

from edgefuse.bundle.manifest import Binding
from edgefuse.runtime.backends.backend import Array, Operator, Session, SessionOptions
from edgefuse.runtime.backends.openvino.api import openvino
from edgefuse.runtime.backends.openvino.session import core, opened, read
from edgefuse.runtime.processor import Processor


class OpenvinoBackend:
    """Opens ONNX files with OpenVINO.

    Its threads (TBB's) fall asleep by themselves; there is no way to keep them spinning, so that `spinning` changes
    nothing.
    """

    name = "openvino"
    title = "OpenVINO"
    suffix = ".onnx"

    def open(
        self, data: bytes, inputs: tuple[Binding, ...], outputs: tuple[Binding, ...], options: SessionOptions
    ) -> Session:
        """Open a file from its bytes; see `session.opened`."""
        return opened(read(data), inputs, outputs, options)

    def versions(self) -> dict[str, str]:
        """Return the version of OpenVINO."""
        return {"openvino": str(openvino.__version__).partition("-")[0]}

    def about(self) -> dict[str, str]:
        """Return what OpenVINO finds on this machine; files run on the CPU alone."""
        capabilities = core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        return {"devices": ", ".join(core().available_devices), "computes": ", ".join(capabilities)}

    def operators(
        self,
        data: bytes,
        inputs: tuple[Binding, ...],
        outputs: tuple[Binding, ...],
        feeds: Mapping[str, Array],
        options: SessionOptions,
    ) -> tuple[Operator, ...]:
        """Return the operators of the graph that runs, in its order; see `Placing`."""
        from edgefuse.runtime.backends.openvino.placement import operators  # which a prediction does not need

        return operators(data, inputs, outputs, feeds, options)

    def saturates(self, scheme: str, cpu: Processor) -> bool:
        """Return whether sums of int8 products are clipped (decision 055).

        OpenVINO multiplies uint8 by int8 with VPMADDUBSW on x86 CPUs without VNNI, as ONNX Runtime does. Which
        activations it makes unsigned follows from their ranges, not from the sign in the file: every static scheme
        has some.

        Args:
            scheme: of the file.
            cpu: that runs it.
        """
        static = scheme.partition(".")[0].endswith("_wi8_ai8")
        return static and cpu.clips_int8
