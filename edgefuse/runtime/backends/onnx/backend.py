"""The backend for ONNX files: ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import cache

from edgefuse.bundle.manifest import Binding
from edgefuse.runtime.backends.backend import Array, Operator, Session, SessionOptions
from edgefuse.runtime.backends.onnx.api import onnxruntime
from edgefuse.runtime.backends.onnx.api import state as ort
from edgefuse.runtime.backends.onnx.session import create, opened, session_options
from edgefuse.runtime.processor import Processor


class OnnxBackend:
    """Opens ONNX files with ONNX Runtime."""

    name = "onnx"
    title = "ONNX Runtime"
    suffix = ".onnx"

    def open(
        self, data: bytes, inputs: tuple[Binding, ...], outputs: tuple[Binding, ...], options: SessionOptions
    ) -> Session:
        """Open a file from its bytes; see `session.opened`."""
        return opened(lambda: self._create(data, inputs, options), inputs, outputs)

    def versions(self) -> dict[str, str]:
        """Return the version of ONNX Runtime."""
        return {"onnxruntime": str(onnxruntime.__version__)}

    def about(self) -> dict[str, str]:
        """Return what the installed ONNX Runtime was built with, best first."""
        return {"providers": ", ".join(onnxruntime.get_available_providers())}

    def operators(
        self,
        data: bytes,
        inputs: tuple[Binding, ...],
        outputs: tuple[Binding, ...],
        feeds: Mapping[str, Array],
        options: SessionOptions,
    ) -> tuple[Operator, ...]:
        """Return the operators of the optimised graph, in its order; see `Placing`."""
        from edgefuse.runtime.backends.onnx.placement import operators  # which a prediction does not need

        return operators(data, inputs, outputs, feeds, options)

    def saturates(self, scheme: str, cpu: Processor) -> bool:
        """Return whether sums of int8 products are clipped (decision 055).

        ONNX Runtime multiplies uint8 activations by int8 weights with VPMADDUBSW on x86 CPUs without VNNI. The
        instruction adds two products in 16 bits and clips the sum: 2 * 255 * 127 does not fit. That concerns static
        activations of sign `u8` and all that are quantized per run, which DynamicQuantizeLinear makes uint8. Signed
        ones and Arm are exact.

        Args:
            scheme: of the file.
            cpu: that runs it.
        """
        name, *qualifiers = scheme.split(".")
        unsigned = "u8" in qualifiers or name == "dynamic_wi8_af32"
        return unsigned and cpu.clips_int8

    def _create(
        self, data: bytes, inputs: tuple[Binding, ...], options: SessionOptions
    ) -> onnxruntime.InferenceSession:
        _share_an_arena()
        settings = session_options(options)
        settings.add_session_config_entry("session.use_env_allocators", "1")
        return create(data, ["CPUExecutionProvider"], settings)


@cache
def _share_an_arena() -> None:
    """Let the stages of all pipelines take their memory from one arena.

    They run one after another, so that the next one writes to what the last one left in the caches: a pipeline of
    small stages is 6 to 8 % faster.
    """
    arena = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    # Another user of ONNX Runtime in this process has registered one, which serves as well.
    with suppress(ort.Fail, ort.InvalidArgument, ort.RuntimeException, RuntimeError, ValueError):
        onnxruntime.create_and_register_allocator(arena, None)
