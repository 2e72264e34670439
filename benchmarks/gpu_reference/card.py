"""The GPU, or the CPU in its place: what it is, and the memory through which a batch goes to it."""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu_reference.models import DISTINCT, Subject

_FACTS = (
    *("driver_version", "clocks.sm", "clocks.mem", "clocks.max.sm", "clocks.max.mem"),
    *("power.limit", "power.draw", "temperature.gpu", "pstate"),
)
_PACKAGES = ("torch", "triton", "numpy", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu", "tensorrt")


@dataclass(frozen=True)
class Card:
    """Where a model runs: `cuda`, or `cpu` in tests."""

    kind: str

    @property
    def is_gpu(self) -> bool:
        """Whether it is a GPU."""
        return self.kind == "cuda"

    def wait(self) -> None:
        """Return when everything that was started is done."""
        if self.is_gpu:
            torch.cuda.synchronize()

    def forget(self) -> None:
        """Give back what the allocator keeps."""
        if self.is_gpu:
            torch.cuda.empty_cache()

    def pinned(self, tensor: Tensor) -> Tensor:
        """Return a tensor of the host that the card can copy from by itself."""
        return tensor.pin_memory() if self.is_gpu else tensor.clone()

    def facts(self) -> dict[str, Any]:
        """Return what it is."""
        if not self.is_gpu:
            return {"name": platform.processor() or platform.machine(), "memory_bytes": None, "capability": None}
        about = torch.cuda.get_device_properties(0)
        return {
            "name": about.name,
            "memory_bytes": about.total_memory,
            "capability": f"{about.major}.{about.minor}",
        }


class Place:
    """A batch in pinned memory of the host and in the card's, shared by all that run at this batch."""

    def __init__(self, card: Card, subject: Subject, batch: int) -> None:
        self.card = card
        self.batch = batch
        self._subject = subject
        self.host = tuple(card.pinned(tensor) for tensor in subject.batch(batch))
        self.there = tuple(tensor.to(card.kind) for tensor in self.host)

    def load(self, first: int) -> None:
        """Put other items into the host's memory: from that one on."""
        rows = (first + torch.arange(self.batch)) % DISTINCT
        for host, items in zip(self.host, self._subject.inputs, strict=True):
            host.copy_(items[rows])

    def send(self) -> None:
        """Copy the batch to the card; it may go on when this returns."""
        for there, host in zip(self.there, self.host, strict=True):
            there.copy_(host, non_blocking=True)


def fetched(outputs: Sequence[Tensor], back: Sequence[Tensor]) -> None:
    """Copy outputs into the host's memory; it may go on when this returns."""
    for host, output in zip(back, outputs, strict=True):
        host.copy_(output, non_blocking=True)


def versions() -> dict[str, str]:
    """Return the versions of what is installed here and may matter."""
    found = {"python": platform.python_version(), "cuda": str(torch.version.cuda or "none")}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found | {"torch": torch.__version__}


def clocks() -> dict[str, str] | None:
    """Return what nvidia-smi says of driver, clocks, power and heat of the first GPU; None if it says nothing."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    command = [program, f"--query-gpu={','.join(_FACTS)}", "--format=csv,noheader", "--id=0"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    values = [value.strip() for value in told.stdout.split(",")]
    return dict(zip(_FACTS, values, strict=True)) if told.returncode == 0 and len(values) == len(_FACTS) else None
