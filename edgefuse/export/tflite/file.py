"""The bytes of a TFLite file, as objects of its schema and back."""

from __future__ import annotations

from typing import Any

import flatbuffers  # type: ignore[import-untyped]
import numpy as np
import numpy.typing as npt
from ai_edge_litert.tools import flatbuffer_utils

_ALIGNMENT = 16
_IDENTIFIER = b"TFL3"


class _CompactBuilder(flatbuffers.Builder):  # type: ignore[misc]
    """A builder that aligns byte vectors, as the schema asks, and writes equal vectors once.

    A file quantized per channel repeats a vector of zero points for every tensor: a tenth of a small network.
    """

    def __init__(self) -> None:
        super().__init__(1 << 16)
        self._written: dict[tuple[str, bytes], int] = {}

    def CreateNumpyVector(self, x: npt.NDArray[np.generic]) -> int:  # noqa: N802
        key = x.dtype.str, x.tobytes()
        if key not in self._written:
            self._written[key] = int(super().CreateNumpyVector(x))
        return self._written[key]

    def StartVector(self, elemSize: int, numElems: int, alignment: int) -> int:  # noqa: N802, N803
        aligned = max(alignment, _ALIGNMENT) if elemSize == 1 else alignment
        return int(super().StartVector(elemSize, numElems, aligned))


def unpack(data: bytes) -> Any:
    """Return a file as the schema's `ModelT` object."""
    return flatbuffer_utils.read_model_from_bytearray(bytearray(data))


def pack(model: Any) -> bytes:
    """Return a `ModelT` object as a file whose constants lie inline, at multiples of 16 bytes."""
    for buffer in model.buffers:
        if isinstance(buffer.data, bytes | bytearray):  # the schema would write these byte by byte, in Python
            buffer.data = np.frombuffer(buffer.data, np.uint8)
    builder = _CompactBuilder()
    builder.Finish(model.Pack(builder), file_identifier=_IDENTIFIER)
    return bytes(builder.Output())
