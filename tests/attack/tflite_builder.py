"""Builds TFLite files from the schema's objects, operator by operator, and takes them apart again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flatbuffers  # type: ignore[import-untyped]
import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

Array = npt.NDArray[Any]
TYPES = {
    name: getattr(schema.TensorType, name.upper())
    for name in (
        "float32",
        "float16",
        "int32",
        "uint8",
        "int64",
        "bool",
        "int16",
        "complex64",
        "int8",
        "float64",
        "int4",
    )
}
_LARGEST_OLD_CODE = 127
_VERSIONS = {schema.BuiltinOperator.BROADCAST_TO: 2}  # of the operators whose first one is none of the schema's


class FileBuilder:
    """Builds a file of one graph, operator by operator; tensors are numbers.

    Attributes:
        model: the schema's object; edits may change it before `data`.
    """

    def __init__(self) -> None:
        self.graph = schema.SubGraphT(tensors=[], inputs=[], outputs=[], operators=[], name=b"main")
        self.model = schema.ModelT(
            version=3,
            operatorCodes=[],
            subgraphs=[self.graph],
            buffers=[schema.BufferT()],
            signatureDefs=[],
            metadata=[schema.MetadataT(name=b"min_runtime_version", buffer=1)],
        )
        self.model.buffers.append(schema.BufferT(data=np.frombuffer(b"1.5.0".ljust(16, b"\0"), np.uint8)))

    def tensor(
        self,
        shape: Sequence[int],
        dtype: str = "float32",
        scales: Sequence[float] = (),
        *,
        axis: int = 0,
        zero_point: int = 0,
        buffer: int = 0,
    ) -> int:
        """Add a tensor that is computed, or one of a buffer."""
        quantization = None
        if scales:
            quantization = schema.QuantizationParametersT(
                scale=np.array(scales, np.float32),
                zeroPoint=np.full(len(scales), zero_point, np.int64),
                quantizedDimension=axis,
            )
        index = len(self.graph.tensors)
        self.graph.tensors.append(
            schema.TensorT(
                shape=np.array(shape, np.int32),
                type=TYPES[dtype],
                buffer=buffer,
                name=f"t{index}".encode(),
                quantization=quantization,
                hasRank=True,
            )
        )
        return index

    def constant(self, value: Any, scales: Sequence[float] = (), *, axis: int = 0, dtype: str = "") -> int:
        """Add a constant."""
        array = np.asarray(value)
        self.model.buffers.append(schema.BufferT(data=np.frombuffer(array.tobytes(), np.uint8)))
        buffer = len(self.model.buffers) - 1
        return self.tensor(array.shape, dtype or array.dtype.name, scales, axis=axis, buffer=buffer)

    def ints(self, *values: int) -> int:
        """Add a list of int32."""
        return self.constant(np.array(values, np.int32))

    def scalar(self, value: int) -> int:
        """Add a scalar of int32."""
        return self.constant(np.array(value, np.int32))

    def input(self, shape: Sequence[int], dtype: str = "float32", scales: Sequence[float] = ()) -> int:
        """Add a tensor that is fed."""
        index = self.tensor(shape, dtype, scales)
        self.graph.inputs.append(index)
        return index

    def call(self, kind: str, inputs: Sequence[int], outputs: Sequence[int], union: str = "", **options: Any) -> None:
        """Add an operator on tensors that are there."""
        second = union.startswith("Stablehlo")
        made = getattr(schema, f"{union}T")(**options) if union else None
        number = getattr(schema.BuiltinOptions2 if second else schema.BuiltinOptions, union) if union else 0
        self.graph.operators.append(
            schema.OperatorT(
                opcodeIndex=self._code(getattr(schema.BuiltinOperator, kind)),
                inputs=np.array(inputs, np.int32),
                outputs=np.array(outputs, np.int32),
                builtinOptionsType=0 if second else number,
                builtinOptions=None if second else made,
                builtinOptions2Type=number if second else 0,
                builtinOptions2=made if second else None,
            )
        )

    def add(
        self,
        kind: str,
        inputs: Sequence[int],
        shape: Sequence[int],
        union: str = "",
        *,
        dtype: str = "float32",
        scales: Sequence[float] = (),
        **options: Any,
    ) -> int:
        """Add an operator of one output, and return that."""
        output = self.tensor(shape, dtype, scales)
        self.call(kind, inputs, [output], union, **options)
        return output

    def finish(self, *outputs: int) -> bytes:
        """Give the graph its outputs and a signature, and return the file."""
        self.graph.outputs = list(outputs)
        ports = [
            [
                schema.TensorMapT(name=f"{prefix}_{place}".encode(), tensorIndex=index)
                for place, index in enumerate(each)
            ]
            for prefix, each in (("args", self.graph.inputs), ("output", outputs))
        ]
        signature = schema.SignatureDefT(inputs=ports[0], outputs=ports[1], signatureKey=b"serving_default")
        self.model.signatureDefs = [signature]
        return pack(self.model)

    def _code(self, code: int) -> int:
        for index, known in enumerate(self.model.operatorCodes):
            if known.builtinCode == code:
                return index
        old = min(code, _LARGEST_OLD_CODE)
        version = _VERSIONS.get(code, 1)
        self.model.operatorCodes.append(
            schema.OperatorCodeT(deprecatedBuiltinCode=old, builtinCode=code, version=version)
        )
        return len(self.model.operatorCodes) - 1


class _Builder(flatbuffers.Builder):  # type: ignore[misc]
    """Aligns vectors of bytes to 16, as the schema asks."""

    def StartVector(self, elemSize: int, numElems: int, alignment: int) -> int:  # noqa: N802, N803
        return int(super().StartVector(elemSize, numElems, 16 if elemSize == 1 else alignment))


def pack(model: Any) -> bytes:
    """Return the file of a `ModelT`."""
    builder = _Builder(1 << 12)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def unpack(data: bytes) -> Any:
    """Return the `ModelT` of a file."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))
    for buffer in model.buffers:
        if buffer.data is not None:
            buffer.data = np.asarray(buffer.data, np.uint8)
    return model
