"""Torch compiled by inductor, with its int8 kernels for x86."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torchao.quantization.pt2e  # noqa: F401 - registers the operators that quantized programs hold
from torch._inductor import config

from benchmarks.peers.runtimes.torch import caller
from benchmarks.peers.subject import Array, Feeds, Subject


def open_file(path: Path, subject: Subject) -> Callable[[Feeds], Array]:
    """Open a saved program and compile it, frozen, as inductor's int8 tutorial does."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    config.freezing = True
    return caller(torch.compile(torch.export.load(path).module()), torch.no_grad)
