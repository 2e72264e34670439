"""Precisions and ways in which torch runs a model on the card."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from benchmarks.gpu_reference.card import Place
from benchmarks.gpu_reference.models import Half, Subject

Forward: TypeAlias = Callable[..., tuple[Tensor, ...]]
Precision: TypeAlias = Literal["float32", "tf32", "float16"]

FAILURES = (RuntimeError, ImportError, OSError, AttributeError, TypeError, ValueError, AssertionError, LookupError)
"""What goes wrong in the libraries of others: each becomes the reason in a row, and the others go on."""

TOLERANCES: dict[str, tuple[float, float]] = {"float32": (1e-4, 1e-4), "tf32": (1e-2, 1e-2), "float16": (2e-2, 2e-2)}
"""Absolute and relative (of the largest answer) error against the CPU, by precision: 24, 11 and 11 bits of mantissa."""

_CALLS_BEFORE_A_CAPTURE = 3


@dataclass(frozen=True)
class Variant:
    """A way to run a model."""

    way: Literal["eager", "torch.compile", "CUDA graph"]
    precision: Precision

    @property
    def name(self) -> str:
        """The name of its rows."""
        return f"{self.way} {self.precision}"

    @property
    def risky(self) -> bool:
        """Whether it may take its process with it."""
        return self.way != "eager"


BASE = Variant("eager", "float32")
EAGER = (BASE, Variant("eager", "tf32"))
ALL = (
    *EAGER,
    Variant("eager", "float16"),
    Variant("torch.compile", "float32"),
    Variant("CUDA graph", "float32"),
    Variant("CUDA graph", "tf32"),
    Variant("CUDA graph", "float16"),
)
WANTED = {"digits": ALL, "assistant": EAGER}


class _Tf32:
    """Whether products of float32 may round their factors to 11 bits; a setting of the process."""

    allowed: bool | None = None

    def allow(self, allowed: bool) -> None:
        """Set it, unless it is so already: the check must cost nothing in a timed call."""
        if allowed is not self.allowed:
            torch.backends.cuda.matmul.allow_tf32 = allowed
            torch.backends.cudnn.allow_tf32 = allowed
            self.allowed = allowed


TF32 = _Tf32()


def forward(variant: Variant, subject: Subject, place: Place) -> Forward:
    """Return the call of a variant over the tensors of a place.

    Args:
        variant: to make.
        subject: whose network it runs.
        place: where the inputs of every call lie.

    Raises:
        RuntimeError: or another of `FAILURES`, if it cannot be made here.
    """
    TF32.allow(variant.precision == "tf32")
    with torch.inference_mode(False), torch.no_grad():  # parameters do not move in inference mode
        network: Any = Half(subject.network) if variant.precision == "float16" else subject.network
        network = network.to(place.card.kind)
    if variant.way == "torch.compile":
        compiled: Forward = torch.compile(network, dynamic=False)
        compiled(*place.there)
        return compiled
    if variant.way == "CUDA graph":
        return _captured(network, place)
    eager: Forward = network
    return eager


def _captured(network: Forward, place: Place) -> Forward:
    if not place.card.is_gpu:
        raise RuntimeError("a CPU records no CUDA graphs")
    side: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(_CALLS_BEFORE_A_CAPTURE):
            network(*place.there)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = network(*place.there)

    def replayed(*_: Tensor) -> tuple[Tensor, ...]:
        graph.replay()
        return outputs

    return replayed
