"""Where ONNX Runtime runs an ONNX file: from its optimised graph, and a profile of one run.

The graph tells which operators stayed float although they were quantized: they read what a DequantizeLinear made of
int8 weights, or they have an int8 kernel and stand between dequantized inputs and a QuantizeLinear. (A layer norm may
stand there, too: its neighbours were quantized, it was not.) The profile tells providers and sizes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from edgefuse.bundle.manifest import Binding
from edgefuse.bundle.onnx.protobuf import fields
from edgefuse.errors import BackendError, MeasureError
from edgefuse.runtime.backends.backend import Array, Operator, SessionOptions
from edgefuse.runtime.backends.onnx.api import onnxruntime
from edgefuse.runtime.backends.onnx.session import create, opened, session_options

_ASKED = "CPUExecutionProvider"
_FLOAT = "float after DequantizeLinear"
_QUANTIZE, _DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
_HAVE_INT8 = (
    *("Add", "AveragePool", "Concat", "Conv", "FusedConv", "FusedGemm"),
    *("FusedMatMul", "Gemm", "GlobalAveragePool", "MatMul", "MaxPool", "Mul"),
)
# Numbers of fields in onnx.proto.
_GRAPH, _NODE, _INITIALIZER, _TENSOR_NAME = 7, 1, 5, 8
_INPUT, _OUTPUT, _NAME, _OPERATOR = 1, 2, 3, 4


def operators(
    data: bytes,
    inputs: tuple[Binding, ...],
    outputs: tuple[Binding, ...],
    feeds: Mapping[str, Array],
    options: SessionOptions,
) -> tuple[Operator, ...]:
    """Return the operators of the optimised graph, in its order.

    Args:
        data: the file.
        inputs: bindings of its ports.
        outputs: bindings of its ports.
        feeds: arrays by port, batch first.
        options: of the session.

    Raises:
        BackendError: if the file cannot be opened or run, or this version writes no profile that tells.
    """
    with TemporaryDirectory() as folder:
        recorder = _Recorder(Path(folder))
        opened(lambda: recorder.open(data, options), inputs, outputs).run(feeds)
        nodes, constants = _graph(recorder.graph.read_bytes())
        events = _events(recorder.profile())
    stayed = _stayed_float(nodes, constants)
    found = []
    for node in nodes:
        same = events.get(node.name or node.operator)
        if not same:
            raise BackendError("the profile of this version of onnxruntime does not name every operator")
        event = same.pop(0)
        provider = str(event.get("provider") or "unknown provider")
        elsewhere = _FLOAT if node in stayed else "" if provider == _ASKED else provider
        found.append(Operator(node.operator, _macs(node.operator, event), elsewhere))
    return tuple(found)


class _Recorder:
    """Opens a file, and keeps what ONNX Runtime made of it in a folder."""

    def __init__(self, folder: Path) -> None:
        self.graph = folder / "optimised.onnx"
        self._folder = folder

    def open(self, data: bytes, options: SessionOptions) -> onnxruntime.InferenceSession:
        """Open a file as the backend does."""
        settings = session_options(options)
        settings.optimized_model_filepath = str(self.graph)
        settings.enable_profiling = True
        settings.profile_file_prefix = str(self._folder / "profile")
        self._session = create(data, [_ASKED], settings)
        return self._session

    def profile(self) -> list[dict[str, Any]]:
        """Return the events of the runs so far."""
        path = self._session.end_profiling()
        try:
            events: list[dict[str, Any]] = json.loads(Path(path).read_bytes())
        except (OSError, ValueError) as error:  # ONNX Runtime does not say that it could not write
            raise MeasureError(
                "where operators ran cannot be told: ONNX Runtime's profile is missing or cut off",
                got=str(error),
                fix=f"make room in {self._folder.parent}, or name another folder with TMPDIR",
            ) from error
        return events


@dataclass(frozen=True)
class _Node:
    name: str
    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def _graph(data: bytes) -> tuple[list[_Node], set[str]]:
    """Return the nodes of a serialized model's main graph, and the names of its constants."""
    nodes: list[_Node] = []
    constants: set[str] = set()
    for graph in _parts(data, 0, len(data), _GRAPH):
        for begin, end in _parts(data, *graph, _NODE):
            texts = {n: tuple(_texts(data, begin, end, n)) for n in (_INPUT, _OUTPUT, _NAME, _OPERATOR)}
            nodes.append(_Node("".join(texts[_NAME]), "".join(texts[_OPERATOR]), texts[_INPUT], texts[_OUTPUT]))
        for begin, end in _parts(data, *graph, _INITIALIZER):
            constants.update(_texts(data, begin, end, _TENSOR_NAME))
    return nodes, constants


def _parts(data: bytes, begin: int, end: int, number: int) -> Iterator[tuple[int, int]]:
    return ((value, stop) for field, _, value, stop in fields(data, begin, end) if field == number)


def _texts(data: bytes, begin: int, end: int, number: int) -> Iterator[str]:
    return (data[start:stop].decode() for start, stop in _parts(data, begin, end, number))


def _stayed_float(nodes: Sequence[_Node], constants: set[str]) -> set[_Node]:
    """Return the operators that were quantized and run in float."""
    sources = {node.outputs[0]: node.inputs[0] for node in nodes if node.operator == _DEQUANTIZE}
    readers: dict[str, set[str]] = {}
    for node in nodes:
        for tensor in node.inputs:
            readers.setdefault(tensor, set()).add(node.operator)
    stayed: set[_Node] = set()
    for node in nodes:
        if node.operator in (_QUANTIZE, _DEQUANTIZE):
            continue
        computed = [tensor for tensor in node.inputs if tensor and tensor not in constants]
        within = node.operator in _HAVE_INT8 and all(tensor in sources for tensor in computed)
        between = within and all(readers.get(tensor) == {_QUANTIZE} for tensor in node.outputs)
        if between or any(sources.get(tensor) in constants for tensor in node.inputs):
            stayed.add(node)
    return stayed


_SUFFIX = "_kernel_time"


def _events(profile: Iterable[Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Return what the profile says about the operators that ran, by name, or by type for those without a name."""
    events: dict[str, list[dict[str, Any]]] = {}
    for event in profile:
        name, about = str(event["name"]), event.get("args", {})
        if event.get("cat") == "Node" and name.endswith(_SUFFIX):
            name = name.removesuffix(_SUFFIX)
            unnamed = name == f"{about.get('op_name')}_{about.get('node_index')}"
            events.setdefault(about["op_name"] if unnamed else name, []).append(about)
    return events


def _macs(operator: str, event: Mapping[str, Any]) -> int:
    """Return the multiplications of a convolution or a matrix product of two tensors, from the sizes in the profile."""
    shapes: list[list[int]] = [next(iter(entry.values())) for entry in event.get("input_type_shape", ())]
    results: list[list[int]] = [next(iter(entry.values())) for entry in event.get("output_type_shape", ())]
    if not results:
        return 0
    if "Conv" in operator:
        weights = next((shape for shape in shapes[1:] if len(shape) >= 3), [])
        return prod(results[0]) * prod(weights[1:]) if weights else 0
    if "MatMul" in operator or "Gemm" in operator:
        rows = prod(results[0][:-1])
        return prod(results[0]) * (prod(shapes[0]) // rows) if rows else 0
    return 0
