"""LiteRT with XNNPACK on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from benchmarks.peers.subject import Array, Feeds, Subject

_Details = Mapping[str, Any]


def open_file(path: Path, subject: Subject) -> Callable[[Feeds], Array]:
    """Open a file; tensors are set by index, which costs less than the signature runner."""
    interpreter = Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    runner = interpreter.get_signature_runner()
    types = {port.name: np.dtype(port.dtype) for port in subject.about.inputs}
    inputs = [(name, details, details["dtype"] != types[name]) for name, details in runner.get_input_details().items()]
    output: _Details = runner.get_output_details()[subject.about.outputs[0]]

    def call(feeds: Feeds) -> Array:
        for name, details, quantized in inputs:
            value = _quantize(feeds[name], details) if quantized else feeds[name]
            interpreter.set_tensor(details["index"], value)
        interpreter.invoke()
        return _dequantize(interpreter.get_tensor(output["index"]), output)

    return call


def _quantize(array: Array, details: _Details) -> Array:
    """Give an int8 interface what it takes: static recipes quantize the inputs, too."""
    scale, zero = details["quantization"]
    limits = np.iinfo(details["dtype"])
    result: Array = np.clip(np.rint(array / scale + zero), limits.min, limits.max).astype(details["dtype"])
    return result


def _dequantize(array: Array, details: _Details) -> Array:
    if np.issubdtype(array.dtype, np.floating):
        return array
    scale, zero = details["quantization"]
    result: Array = ((array.astype(np.float32) - zero) * scale).astype(np.float32)
    return result
