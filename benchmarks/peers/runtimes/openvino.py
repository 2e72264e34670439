"""OpenVINO on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import openvino

from benchmarks.peers.subject import Array, Feeds, Subject

_SETTINGS = {
    "PERFORMANCE_HINT": "LATENCY",
    "INFERENCE_NUM_THREADS": 1,
    "NUM_STREAMS": 1,
    "ENABLE_CPU_PINNING": False,  # a pinned thread waits where the machine has other work
    "INFERENCE_PRECISION_HINT": "f32",  # what is not int8 stays float32: bfloat16 would be another comparison
    "CPU_DENORMALS_OPTIMIZATION": True,
}


def open_file(path: Path, subject: Subject) -> Callable[[Feeds], Array]:
    """Open a file for latency; an infer request that shares its inputs is the fastest call from Python."""
    core = openvino.Core()
    request = core.compile_model(core.read_model(path), "CPU", _SETTINGS).create_infer_request()

    def call(feeds: Feeds) -> Array:
        result: Array = request.infer(feeds, share_inputs=True, share_outputs=True)[0]
        return result

    return call
