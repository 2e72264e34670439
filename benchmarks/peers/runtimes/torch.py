"""Torch in eager mode."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

from benchmarks.peers.subject import Array, Feeds, Subject


def open_file(path: Path, subject: Subject) -> Callable[[Feeds], Array]:
    """Open a saved program and run it operator by operator."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    return caller(torch.export.load(path).module(), torch.inference_mode)


def caller(
    module: Callable[..., Any], without_gradients: Callable[[], AbstractContextManager[object]]
) -> Callable[[Feeds], Array]:
    """Return a call that runs a module on feeds and gives its first output."""

    def call(feeds: Feeds) -> Array:
        with without_gradients():
            outputs = module(*(torch.from_numpy(array) for array in feeds.values()))
        first = outputs[0] if isinstance(outputs, tuple | list) else outputs
        result: Array = first.numpy()
        return result

    return call
