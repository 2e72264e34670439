"""The process of `builder`: builds graphs with TensorRT for RTX, one after the other, and answers in lines of JSON.

It reads a line of JSON and the graphs from stdin. What the native libraries print goes to stderr, behind a line that
says whose it is; so a crash takes along neither the answers before it nor what led to it.
"""

from __future__ import annotations

import os
import sys
import time
from typing import BinaryIO, Final

import msgspec

from edgefuse.bundle.manifest import Binding, BuildPlan
from edgefuse.bundle.spec import Record
from edgefuse.errors import BackendError
from edgefuse.typed_json import decode

MARK: Final = "edgefuse builds graph "
"""Begins the line on stderr before what is said of a graph."""


class Graph(Record, frozen=True, kw_only=True):
    """A graph in a request; its bytes follow."""

    inputs: tuple[Binding, ...]
    plan: BuildPlan
    size_bytes: int


class Request(Record, frozen=True, kw_only=True):
    """What to build, and the architectures for which to build each graph, such as `SM86`."""

    architectures: tuple[str, ...]
    graphs: tuple[Graph, ...] = ()


class Answer(Record, frozen=True, kw_only=True):
    """What became of a graph.

    Attributes:
        engines_bytes: the size of the engine for each architecture, as far as they were built.
        warnings: of the parser and the builder, each once.
        refusal: why it was refused; empty if it was not.
        seconds: for all architectures.
    """

    engines_bytes: tuple[int, ...] = ()
    warnings: tuple[str, ...] = ()
    refusal: str = ""
    seconds: float = 0.0


class Edition(Record, frozen=True, kw_only=True):
    """The first answer: the version of TensorRT for RTX, empty where there is none, and why."""

    version: str = ""
    reason: str = ""


def main() -> None:
    """Answer a request."""
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    sys.modules["tensorrt"] = None  # type: ignore[assignment]  # the full edition builds for the GPU that it finds only
    try:
        from edgefuse.runtime.backends.tensorrt.edition import trt
    except ImportError as error:
        answers.write(_line(Edition(reason=str(error))))
        return
    answers.write(_line(Edition(version=trt.__version__)))
    line = sys.stdin.buffer.readline()
    request = decode(line, Request)
    for index, graph in enumerate(request.graphs):
        os.write(2, f"{MARK}{index}\n".encode())
        answers.write(_line(_answer(graph, _exactly(sys.stdin.buffer, graph.size_bytes), request.architectures)))


def _answer(graph: Graph, data: bytes, architectures: tuple[str, ...]) -> Answer:
    """Build a graph for each architecture until one refuses it."""
    from edgefuse.runtime.backends.tensorrt.build import LOG, build
    from edgefuse.runtime.backends.tensorrt.edition import trt

    LOG.error = None
    LOG.warnings.clear()
    sizes: list[int] = []
    refusal = ""
    start = time.monotonic()
    for architecture in architectures:

        def ahead(config: trt.IBuilderConfig, capability: str = architecture) -> None:
            config.num_compute_capabilities = 1
            config.set_compute_capability(getattr(trt.ComputeCapability, capability), 0)

        try:
            sizes.append(memoryview(build(data, graph.inputs, graph.plan, ahead)).nbytes)
        except BackendError as error:
            refusal = f"{str(error).rstrip('.')} (for {architecture})"
            break
    return Answer(
        engines_bytes=tuple(sizes),
        warnings=tuple(LOG.warnings),
        refusal=refusal,
        seconds=time.monotonic() - start,
    )


def _exactly(stream: BinaryIO, size_bytes: int) -> bytes:
    data = stream.read(size_bytes)
    if len(data) != size_bytes:
        raise EOFError(f"got {len(data)} bytes of a graph, expected {size_bytes}")
    return data


def _line(record: Record) -> bytes:
    return msgspec.json.encode(record) + b"\n"


if __name__ == "__main__":
    main()
