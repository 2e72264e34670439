"""Run stage files for another process, over its pipes, with edgefuse's own backend.

Numbers are big-endian; a text is a uint16 size and UTF-8. `o`: bindings of inputs and outputs, then the file; the
answer is its number. `r`: that number, then arrays by tensor name; the answer is arrays by tensor name.
"""

from __future__ import annotations

import struct
import sys
from typing import Any, BinaryIO

import numpy as np

from edgefuse import registry
from edgefuse.bundle.manifest import Binding
from edgefuse.runtime.backends.backend import Array, Session, SessionOptions


class Stream:
    """What the other side writes, and where it reads."""

    def __init__(self, source: BinaryIO, sink: BinaryIO) -> None:
        self._source, self._sink = source, sink

    def kind(self) -> bytes:
        return self._source.read(1)

    def number(self) -> int:
        (value,) = struct.unpack(">i", self._source.read(4))
        return int(value)

    def text(self) -> str:
        (size,) = struct.unpack(">H", self._source.read(2))
        return self._source.read(size).decode()

    def data(self) -> bytes:
        return self._source.read(self.number())

    def shape(self) -> tuple[int, ...]:
        return tuple(self.number() for _ in range(self.number()))

    def write(self, *parts: int | str | bytes) -> None:
        for part in parts:
            if isinstance(part, int):
                self._sink.write(struct.pack(">i", part))
            elif isinstance(part, str):
                self._sink.write(struct.pack(">H", len(part)) + part.encode())
            else:
                self._sink.write(struct.pack(">i", len(part)) + part)

    def flush(self) -> None:
        self._sink.flush()


def bindings(stream: Stream) -> tuple[Binding, ...]:
    def one() -> Binding:
        port, tensor, dtype, shape = stream.text(), stream.text(), stream.text(), stream.shape()
        return Binding(port=port, tensor=tensor, dtype=dtype, shape=shape)  # type: ignore[arg-type]

    return tuple(one() for _ in range(stream.number()))


def arrays(stream: Stream) -> dict[str, Array]:
    def one() -> tuple[str, Array]:
        name, dtype, shape = stream.text(), stream.text(), stream.shape()
        return name, np.frombuffer(stream.data(), dtype).reshape(shape)

    return dict(one() for _ in range(stream.number()))


def serve(stream: Stream, backend: Any) -> None:
    opened: list[tuple[Session, tuple[Binding, ...], tuple[Binding, ...]]] = []
    while kind := stream.kind():
        if kind == b"o":
            inputs, outputs = bindings(stream), bindings(stream)
            opened.append((backend.open(stream.data(), inputs, outputs, SessionOptions()), inputs, outputs))
            stream.write(len(opened) - 1)
        else:
            session, inputs, outputs = opened[stream.number()]
            given = arrays(stream)
            results = session.run({binding.port: given[binding.tensor] for binding in inputs})
            stream.write(len(outputs))
            for binding in outputs:
                value = results[binding.port]
                stream.write(binding.tensor, value.dtype.name, value.ndim, *value.shape, value.tobytes())
        stream.flush()


if __name__ == "__main__":
    serve(Stream(sys.stdin.buffer, sys.stdout.buffer), registry.create("backends", sys.argv[1]))
