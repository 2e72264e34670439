"""ExecuTorch's runtime with XNNPACK."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from executorch.extension.pybindings.portable_lib import _unsafe_reset_threadpool
from executorch.runtime import Runtime

from benchmarks.peers.subject import Array, Feeds, Subject


def open_file(path: Path, subject: Subject) -> Callable[[Feeds], Array]:
    """Open a file; the size of its pool has no public setting in Python."""
    torch.set_num_threads(1)
    _unsafe_reset_threadpool(1)
    method = Runtime.get().load_program(path).load_method("forward")

    def call(feeds: Feeds) -> Array:
        result: Array = method.execute([torch.from_numpy(array) for array in feeds.values()])[0].numpy()
        return result

    return call
