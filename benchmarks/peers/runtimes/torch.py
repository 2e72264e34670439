"""Torch in eager mode."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.peers.subject import Array, Feeds, Subject


def open_file(path: Path, subject: Subject) -> Callable[[Feeds], Array]:
    """Open a saved program and run it operator by operator."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    module = torch.export.load(path).module()

    def call(feeds: Feeds) -> Array:
        with torch.inference_mode():
            outputs = module(*(torch.from_numpy(array) for array in feeds.values()))
        first = outputs[0] if isinstance(outputs, tuple | list) else outputs
        result: Array = first.numpy()
        return result

    return call
