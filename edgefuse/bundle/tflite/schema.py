"""The content of a TFLite file as plain records: version 3 of the schema, https://github.com/google-ai-edge/LiteRT.

Numbers of fields are those of `schema.fbs`; a test compares them with the schema that LiteRT installs. Reading checks
what a table can be asked for by itself: types that are known, sizes that are possible, constants as large as their
tensors, names that are text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from edgefuse.bundle.refusal import RefusedError
from edgefuse.bundle.tflite.flatbuffer import Buffer, Table
from edgefuse.bundle.tflite.quantization import Quantization, read_quantization

Shape: TypeAlias = tuple[int, ...]
Span: TypeAlias = tuple[int, int]

IDENTIFIER = b"TFL3"
VERSION = 3
MAX_RANK = 6
MAX_GRAPHS = 1024
MAX_OPERATORS = 100_000
MAX_TENSORS = 200_000
MAX_PORTS = 1024
MAX_ELEMENTS = 2**28
"""Of one tensor; what all that live at once may take is in `graph.py`."""

# Number in the schema: name, bits of one element. Strings, resources, variants and what no converter emits are absent.
TYPES: Mapping[int, tuple[str, int]] = MappingProxyType(
    {
        0: ("float32", 32),
        1: ("float16", 16),
        2: ("int32", 32),
        3: ("uint8", 8),
        4: ("int64", 64),
        6: ("bool", 8),
        7: ("int16", 16),
        8: ("complex64", 64),
        9: ("int8", 8),
        10: ("float64", 64),
        15: ("uint32", 32),
        17: ("int4", 4),
    }
)
_BITS = dict(TYPES.values())
_METADATA = ("min_runtime_version", "keep_stablehlo_constant", "CONVERSION_METADATA")
_LARGEST_OLD_CODE = 127  # what the schema's first field for operators can hold


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of a graph.

    Attributes:
        constant: where its values lie in the file and how many bytes they are; None for what is computed.
    """

    name: str
    dtype: str
    shape: Shape
    constant: Span | None
    quantization: Quantization

    @property
    def elements(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)

    @property
    def size_bytes(self) -> int:
        """How much memory it takes."""
        return -(-self.elements * _BITS[self.dtype] // 8)


@dataclass(frozen=True, slots=True)
class Operator:
    """An operator: its code, its tensors (-1 where an input is left out), and its options with their type."""

    code: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: tuple[int, Table | None]
    options2: tuple[int, Table | None]


@dataclass(frozen=True, slots=True)
class Graph:
    """A graph: the main one, or one that an operator names."""

    tensors: Sequence[Tensor]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    operators: Sequence[Operator]


@dataclass(frozen=True, slots=True)
class Model:
    """A whole file."""

    data: bytes
    graphs: Sequence[Graph]

    def values(self, tensor: Tensor) -> npt.NDArray[np.generic] | None:
        """Return a constant of whole bytes as an array, None for what is computed."""
        if tensor.constant is None:
            return None
        begin, size = tensor.constant
        dtype = np.dtype(tensor.dtype).newbyteorder("<")
        return np.frombuffer(memoryview(self.data)[begin : begin + size], dtype).reshape(tensor.shape)


def read(data: bytes) -> Model:
    """Return the content of a file, or raise `RefusedError`."""
    return _Reader(data).model()


class _Reader:
    """Reads one file; the lists that tables refer to by index come first."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._root = Buffer(data).root(IDENTIFIER)
        self._codes = [_code(table) for table in self._root.tables(1, MAX_OPERATORS)]
        self._constants = [self._constant(table) for table in self._root.tables(4, MAX_TENSORS)]

    def model(self) -> Model:
        root = self._root
        if root.integer(0, "I") != VERSION:
            raise RefusedError(f"is of schema version {root.integer(0, 'I')}, expected {VERSION}")
        if root.has(8) or root.has(9):
            raise RefusedError("keeps constants in other files")
        root.text(3)
        self._check_metadata()
        graphs = [self._graph(table) for table in root.tables(2, MAX_GRAPHS)]
        if not graphs:
            raise RefusedError("has no graph")
        _check_signatures(root.tables(7, MAX_PORTS), graphs)
        return Model(self._data, graphs)

    def _constant(self, buffer: Table) -> Span | None:
        """Return where the values of a buffer lie: in it or, in files beyond 2 GB, behind the FlatBuffer."""
        span = buffer.span(0)
        begin, size = buffer.integer(1, "Q"), buffer.integer(2, "Q")
        if span is not None or begin <= 1:
            return span
        if size > len(self._data) or begin > len(self._data) - size:
            raise RefusedError(f"has a buffer of {size} bytes at byte {begin} of {len(self._data)}")
        return begin, size

    def _check_metadata(self) -> None:
        indices = self._root.integers(5, MAX_TENSORS)
        entries = self._root.tables(6, MAX_PORTS)
        unknown = sorted({entry.text(0) or "" for entry in entries} - set(_METADATA))
        if unknown:
            raise RefusedError(f"has unknown metadata {unknown[0]!a}")
        for index in (*indices, *(entry.integer(1, "I") for entry in entries)):
            _check_index(index, self._constants, "metadata in the buffer")

    def _graph(self, table: Table) -> Graph:
        table.text(4)
        tensors = [self._tensor(each) for each in table.tables(0, MAX_TENSORS)]
        for tensor in tensors:
            _check_blocks(tensor, tensors)
        inputs, outputs = table.integers(1, MAX_PORTS), table.integers(2, MAX_PORTS)
        return Graph(tensors, inputs, outputs, [self._operator(each) for each in table.tables(3, MAX_OPERATORS)])

    def _tensor(self, table: Table) -> Tensor:
        name = table.text(3) or ""
        shape, signature = table.integers(0, MAX_RANK), table.integers(7, MAX_RANK)
        kind = TYPES.get(table.integer(1, "b"))
        if kind is None:
            raise RefusedError(f"has a tensor {name!a} of the unknown type {table.integer(1, 'b')}")
        if signature not in ((), shape):
            raise RefusedError(f"has a tensor {name!a} of an open size")
        if table.integer(5, "B") or table.has(6) or table.has(9) or table.integer(10, "I"):
            raise RefusedError(f"has a tensor {name!a} that is variable, sparse, nested or in another file")
        index = table.integer(2, "I")
        _check_index(index, self._constants, "a tensor in the buffer")
        quantization = read_quantization(table.table(4), name, kind[0], shape)
        tensor = Tensor(name, kind[0], shape, self._constants[index] if index else None, quantization)
        _check_size(tensor)
        return tensor

    def _operator(self, table: Table) -> Operator:
        index = table.integer(0, "I")
        _check_index(index, self._codes, "an operator of the code")
        if table.span(5) or table.integer(9, "Q") or table.integers(8, 0) or any(table.integers(7, MAX_PORTS, "B")):
            raise RefusedError("has an operator with options of its own, intermediate or variable tensors")
        return Operator(
            code=self._codes[index],
            inputs=table.integers(1, MAX_PORTS),
            outputs=table.integers(2, MAX_PORTS),
            options=(table.integer(3, "B"), table.table(4)),
            options2=(table.integer(11, "B"), table.table(12)),
        )


def _check_index(index: int, found: Sequence[object], what: str) -> None:
    if not 0 <= index < len(found):
        raise RefusedError(f"has {what} {index} of {len(found)}")


def _code(table: Table) -> int:
    """Return the code of an operator: newer codes do not fit the field that older files have."""
    old, new = table.integer(0, "b"), table.integer(3, "i")
    code = max(old, new)
    if old not in (0, min(code, _LARGEST_OLD_CODE)) or new not in (0, code):
        raise RefusedError(f"has an operator of two codes, {old} and {new}")
    if table.text(1):
        raise RefusedError(f"has a custom operator {table.text(1)!a}")
    return code


def _check_size(tensor: Tensor) -> None:
    """Check that a size is possible and that constants have it; only lists of sizes and axes may be empty."""
    empty = tensor.constant is not None and tensor.shape == (0,)
    if not empty and (min(tensor.shape, default=1) < 1 or tensor.elements > MAX_ELEMENTS):
        raise RefusedError(f"has a tensor {tensor.name!a} of the impossible shape {list(tensor.shape)}")
    if tensor.constant is None:
        return
    begin, size = tensor.constant
    if size != tensor.size_bytes:
        raise RefusedError(f"has a constant {tensor.name!a} of {size} bytes, expected {tensor.size_bytes}")
    if begin % max(1, _BITS[tensor.dtype] // 8):
        raise RefusedError(f"has a constant {tensor.name!a} at byte {begin}, which its type cannot be read from")


def _check_blocks(tensor: Tensor, tensors: Sequence[Tensor]) -> None:
    """Check the scales of a tensor that is quantized in blocks of its last axis: a constant of the same graph."""
    blocks = tensor.quantization.blocks
    if blocks is None:
        return
    where = f"a tensor {tensor.name!a} quantized in blocks"
    _check_index(blocks.scales, tensors, f"{where} by the tensor")
    scales = tensors[blocks.scales]
    *rest, last = tensor.shape
    fits = (
        blocks.zero_points == -1
        and tensor.constant is not None
        and scales.constant is not None
        and scales.dtype in ("float16", "float32")
        and last % blocks.size == 0
        and scales.shape == (*rest, last // blocks.size)
    )
    if not fits:
        raise RefusedError(f"has {where} of {blocks.size}, which do not fit it")


def _check_signatures(signatures: Sequence[Table], graphs: Sequence[Graph]) -> None:
    """Check that signatures name the ports of the main graph, each once."""
    keys = [signature.text(2) for signature in signatures]
    if None in keys or len(set(keys)) != len(keys):
        raise RefusedError("has a signature without a name, or two of one name")
    for signature in signatures:
        index = signature.integer(4, "I")
        _check_index(index, graphs[:1], "a signature of the graph")
        inputs = _ports(signature.tables(0, MAX_PORTS))
        outputs = _ports(signature.tables(1, MAX_PORTS))
        graph = graphs[0]
        if sorted(inputs) != sorted(graph.inputs) or not set(outputs) <= set(graph.outputs):
            raise RefusedError(f"has a signature {signature.text(2)!a} whose ports are not those of its graph")


def _ports(maps: Sequence[Table]) -> list[int]:
    names = [each.text(0) for each in maps]
    if None in names or len(set(names)) != len(names):
        raise RefusedError("has a port without a name, or two of one name")
    return [each.integer(1, "I") for each in maps]
