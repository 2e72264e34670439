"""Read, name and write TFLite files as objects: the interface by port names, everything else by operator."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import flatbuffers  # type: ignore[import-untyped]
import numpy as np
import numpy.typing as npt
from ai_edge_litert.tools import flatbuffer_utils

from edgefuse.errors import ExportError

_IDENTIFIER = b"TFL3"
_ALIGNMENT = 16


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
    builder = _CompactBuilder()
    builder.Finish(model.Pack(builder), file_identifier=_IDENTIFIER)
    return bytes(builder.Output())


def name_interface(data: bytes, inputs: Sequence[str], outputs: Sequence[str]) -> bytes:
    """Give a file of litert-torch the names of its ports, and its tensors short names.

    An inner tensor is called after its operator (`conv_2d_4`), a constant by its number (`constant_7`): such names do
    not carry the names of classes, are unique and the same for the same graph, and save a tenth of an int8 file.

    Args:
        data: a file with one signature whose inputs are `args_<position>` and outputs `output_<position>`.
        inputs: port names by position.
        outputs: port names by position.

    Raises:
        ExportError: if the file's signature does not have these inputs and outputs.
    """
    model = unpack(data)
    (signature,) = model.signatureDefs
    (graph,) = model.subgraphs
    _rename(signature.inputs, "args_", inputs)
    _rename(signature.outputs, "output_", outputs)
    names: dict[int, str] = {}
    taken: set[str] = set()
    for index, name in (*_port_names(signature), *_operator_names(model)):
        if index not in names:
            while name in taken:
                name += "_"
            names[index] = name
            taken.add(name)
    for index, tensor in enumerate(graph.tensors):
        tensor.name = names[index].encode()
    graph.name = b"main"
    return pack(model)


def _rename(ports: Sequence[Any], prefix: str, names: Sequence[str]) -> None:
    found = sorted(port.name.decode() for port in ports)
    expected = sorted(f"{prefix}{position}" for position in range(len(names)))
    if found != expected:
        raise ExportError(
            "the lowered file has another interface than its stage",
            got=", ".join(found) or "nothing",
            expected=", ".join(expected),
            fix="let every input of the stage reach its computation, and return one tensor per output",
        )
    for port in ports:
        port.name = names[int(port.name.decode().removeprefix(prefix))].encode()


def _port_names(signature: Any) -> Iterator[tuple[int, str]]:
    for port in (*signature.inputs, *signature.outputs):
        yield port.tensorIndex, port.name.decode()


def _operator_names(model: Any) -> Iterator[tuple[int, str]]:
    """Yield a name for every tensor: after the operator that makes it, or its number among the constants."""
    (graph,) = model.subgraphs
    made = set()
    for position, operator in enumerate(graph.operators):
        kind = str(flatbuffer_utils.opcode_to_name(model, operator.opcodeIndex)).lower()
        for nth, index in enumerate(operator.outputs):
            made.add(index)
            yield index, f"{kind}_{position}" + (f"_{nth}" if nth else "")
    for index in range(len(graph.tensors)):
        if index not in made:
            yield index, f"constant_{index}"
