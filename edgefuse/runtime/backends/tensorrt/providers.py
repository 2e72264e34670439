"""Graphs for TensorRT in ONNX Runtime: with its TensorRT or CUDA provider or, to check them, on the CPU."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from functools import cache

from edgefuse.bundle.manifest import Binding, BuildPlan
from edgefuse.runtime.backends.backend import SessionOptions
from edgefuse.runtime.backends.onnx.api import onnxruntime
from edgefuse.runtime.backends.onnx.api import state as ort
from edgefuse.runtime.backends.onnx.backend import OnnxBackend
from edgefuse.runtime.backends.onnx.session import create, session_options
from edgefuse.runtime.backends.tensorrt.session import input_ranges

log = logging.getLogger(__name__)

TENSORRT, CUDA, CPU = "TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"
_SILENT = 4  # fatal errors only: what fails here is told by us
# b = Identity(a), float32 [1], opset 13.
_PROBE = (
    b'\x08\x08:6\n\x10\n\x01a\x12\x01b"\x08Identity\x12\x00Z\x0f\n\x01a\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01'
    b"b\x0f\n\x01b\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\r"
)


class ProviderBackend(OnnxBackend):
    """Opens ONNX files with one provider: the given one, or the best that works here."""

    name = "tensorrt"
    title = "TensorRT"
    device = "GPU"

    def __init__(self, provider: str | None = None) -> None:
        self.provider = provider or next(filter(_works, (TENSORRT, CUDA)), CPU)

    @property
    def stand_in(self) -> str:
        """What runs graphs on the CPU, where no provider for GPUs works."""
        return f"{OnnxBackend.title} on the CPU" if self.provider == CPU else ""

    def versions(self) -> dict[str, str]:
        """Return the version of ONNX Runtime, and the provider."""
        checking = " (for checking the graph, not for speed)" if self.provider == CPU else ""
        return {**super().versions(), "provider": self.provider + checking}

    def _create(
        self, data: bytes, inputs: tuple[Binding, ...], options: SessionOptions
    ) -> onnxruntime.InferenceSession:
        if self.provider == CPU:
            _warn_of_cpu()
            return super()._create(data, inputs, options)
        providers = provider_options(self.provider, inputs, options.plan or BuildPlan())
        strict = session_options(options)
        strict.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        strict.log_severity_level = _SILENT
        try:
            return create(data, providers, strict)
        except ort.Fail as error:
            if "fallback to CPU" not in str(error):
                raise
        log.warning("a part of a stage runs on the CPU: the %s does not take its operators", self.provider)
        return create(data, providers, session_options(options))


def provider_options(provider: str, inputs: tuple[Binding, ...], plan: BuildPlan) -> list[tuple[str, dict[str, str]]]:
    """Return what to run with: the provider and, for what TensorRT does not take, CUDA.

    The provider for TensorRT 10 builds a strongly typed engine as long as neither fp16 nor int8 is switched on. Its own
    engine cache stays off: it loads files unchecked.

    Args:
        provider: its name.
        inputs: bindings of the file.
        plan: with the shapes of the profile.
    """
    cuda = (CUDA, {"use_tf32": "0"})  # float32 in a graph means float32
    if provider != TENSORRT:
        return [cuda if provider == CUDA else (provider, {})]
    options = {
        "trt_engine_cache_enable": "0",
        "trt_timing_cache_enable": "0",
        "trt_fp16_enable": "0",
        "trt_int8_enable": "0",
        "trt_sparsity_enable": str(int(plan.sparse_weights)),
    }
    ranges = input_ranges(inputs, plan)
    for position, name in enumerate(("min", "opt", "max")):
        if ranges:
            shapes = (f"{tensor}:{_spelled(shapes[position])}" for tensor, shapes in ranges.items())
            options[f"trt_profile_{name}_shapes"] = ",".join(shapes)
    return [(TENSORRT, options), cuda]


def _spelled(shape: Iterable[int]) -> str:
    return "x".join(map(str, shape))


@cache
def _works(provider: str) -> bool:
    """Whether a provider is there with all its libraries: ONNX Runtime lists it without having tried."""
    if provider not in onnxruntime.get_available_providers():
        return False
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _SILENT
    try:
        return provider in create(_PROBE, [provider], options).get_providers()
    except (ort.EPFail, ort.Fail, ort.RuntimeException, RuntimeError):
        return False


@cache
def _warn_of_cpu() -> None:
    log.warning(
        "no GPU runtime is here: graphs for TensorRT run in ONNX Runtime on the CPU, for checking, not for speed"
    )
