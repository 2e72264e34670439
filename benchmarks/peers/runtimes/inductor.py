"""Torch compiled by inductor, with its int8 kernels for x86."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torchao.quantization.pt2e  # noqa: F401 - registers the operators that quantized programs hold
from torch._inductor import config

from benchmarks.peers.subject import Array, Feeds, Subject


def open_file(path: Path, subject: Subject) -> Callable[[Feeds], Array]:
    """Open a saved program and compile it, frozen, as inductor's int8 tutorial does."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    config.freezing = True
    module = torch.compile(torch.export.load(path).module())

    def call(feeds: Feeds) -> Array:
        with torch.no_grad():
            outputs = module(*(torch.from_numpy(array) for array in feeds.values()))
        first = outputs[0] if isinstance(outputs, tuple | list) else outputs
        result: Array = first.numpy()
        return result

    return call
