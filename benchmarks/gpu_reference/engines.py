"""An ONNX file in TensorRT, whichever edition is there, and in ONNX Runtime's CUDA provider, over torch's tensors."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu_reference.card import Place
from benchmarks.gpu_reference.models import INPUTS
from benchmarks.gpu_reference.variants import Forward

EDITIONS = ("tensorrt", "tensorrt_rtx", "tensorrt_bindings", "tensorrt_rtx_bindings")
_TYPES = {torch.uint8: np.uint8, torch.int32: np.int32, torch.float32: np.float32}


def edition() -> Any:
    """Return the module of TensorRT.

    Raises:
        ImportError: if none of its editions is installed.
    """
    for name in EDITIONS:
        try:
            found = importlib.import_module(name)
        except (ImportError, OSError):
            continue
        if hasattr(found, "Builder"):
            return found
    raise ImportError(f"TensorRT is not installed: none of {', '.join(EDITIONS)} can be imported")


def build(trt: Any, path: Path, *, tf32: bool, capability: Any = None) -> bytes:
    """Build the engine of a file whose types are those of the file.

    Args:
        trt: TensorRT's module.
        path: of the ONNX file.
        tf32: whether products of float32 may round their factors.
        capability: a compute capability to build for without a GPU, where the edition can; None for this GPU.

    Raises:
        RuntimeError: if TensorRT does not take the file.
    """
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(1 << int(typed) if typed is not None else 0)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(path.read_bytes()):
        said = parser.get_error(0).desc() if parser.num_errors else "no reason given"
        raise RuntimeError(f"TensorRT cannot read the graph: {said}")
    config = builder.create_builder_config()
    if capability is not None:
        config.num_compute_capabilities = 1
        config.set_compute_capability(capability, 0)
    flag = getattr(trt.BuilderFlag, "TF32", None)
    if flag is not None:
        (config.set_flag if tf32 else config.clear_flag)(flag)
    elif tf32:
        raise RuntimeError("this edition of TensorRT has no switch for TF32")
    made = builder.build_serialized_network(network, config)
    if made is None:
        raise RuntimeError("TensorRT built no engine of the graph")
    return bytes(memoryview(made))


def tensorrt(path: Path, place: Place, *, tf32: bool) -> Forward:
    """Return the call of an engine of a file, which was built for the batch of a place.

    Args:
        path: of the ONNX file.
        place: where the inputs of every call lie.
        tf32: whether products of float32 may round their factors.

    Raises:
        ImportError, RuntimeError: if there is no TensorRT, or it does not take the file.
    """
    trt = edition()
    made = build(trt, path, tf32=tf32)
    runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
    engine = runtime.deserialize_cuda_engine(made)
    context = engine.create_execution_context() if engine is not None else None
    if context is None:
        raise RuntimeError("TensorRT cannot open the engine that it built")
    outputs = []
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        if name in INPUTS:
            tensor = place.there[INPUTS.index(name)]
        else:
            shape = tuple(context.get_tensor_shape(name))
            tensor = torch.empty(shape, dtype=torch.float32, device=place.card.kind)
            outputs.append(tensor)
        context.set_tensor_address(name, tensor.data_ptr())
    stream = torch.cuda.current_stream().cuda_stream

    def run(*_: Tensor) -> tuple[Tensor, ...]:
        if not context.execute_async_v3(stream):
            raise RuntimeError("TensorRT cannot run the engine that it built")
        return tuple(outputs)

    run.kept = (runtime, engine, context)  # type: ignore[attr-defined]  # what dies before its parts takes them along
    return run


def onnxruntime(path: Path, place: Place, shapes: tuple[torch.Size, ...], *, tf32: bool) -> Forward:
    """Return the call of a file in ONNX Runtime's CUDA provider, bound to torch's memory.

    Args:
        path: of the ONNX file.
        place: where the inputs of every call lie.
        shapes: of the outputs.
        tf32: whether products of float32 may round their factors.

    Raises:
        ImportError, RuntimeError: if it, or its provider, is not there.
    """
    ort: Any = importlib.import_module("onnxruntime")
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        raise RuntimeError(f"this ONNX Runtime has no CUDA provider: it has {', '.join(ort.get_available_providers())}")
    options = ort.SessionOptions()
    options.log_severity_level = 3
    provider = ("CUDAExecutionProvider", {"use_tf32": str(int(tf32))})
    session = ort.InferenceSession(str(path), options, providers=[provider, "CPUExecutionProvider"])
    if session.get_providers()[0] != "CUDAExecutionProvider":
        raise RuntimeError("ONNX Runtime's CUDA provider is there and does not load")
    binding = session.io_binding()
    for name, tensor in zip(INPUTS, place.there, strict=True):
        binding.bind_input(name, "cuda", 0, _TYPES[tensor.dtype], tuple(tensor.shape), tensor.data_ptr())
    outputs = tuple(torch.empty(shape, dtype=torch.float32, device=place.card.kind) for shape in shapes)
    for about, tensor in zip(session.get_outputs(), outputs, strict=True):
        binding.bind_output(about.name, "cuda", 0, np.float32, tuple(tensor.shape), tensor.data_ptr())

    def run(*_: Tensor) -> tuple[Tensor, ...]:
        place.card.wait()  # it computes on a stream of its own
        session.run_with_iobinding(binding)
        return outputs

    return run
