"""ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnxruntime

from benchmarks.peers.subject import Array, Feeds, Subject


def open_file(path: Path, subject: Subject) -> Callable[[Feeds], Array]:
    """Open a file as a careful user would: one thread that does not spin, denormals flushed, all optimizations."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    known = {port.name for port in session.get_inputs()}
    output = [subject.about.outputs[0]]

    def call(feeds: Feeds) -> Array:
        result: Array = session.run(output, {name: array for name, array in feeds.items() if name in known})[0]
        return result

    return call
