"""Small stage files that would take all time or memory: what runs is much more than what is there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import flatbuffers  # type: ignore[import-untyped]
import numpy as np
import onnx
import onnx.numpy_helper
from onnx import TensorProto, helper

from tests.attack.tflite_builder import FileBuilder, pack

Bombs = Mapping[str, tuple[Callable[[], bytes], str]]
"""By name: what makes the file, and a pattern of what is said of it."""

_node = helper.make_node


def _value(name: str, kind: int, *sizes: int | None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, sizes)


def onnx_file(*nodes: onnx.NodeProto, **constants: Any) -> bytes:
    """Return a model of these nodes, which read four numbers `x` and constants; what it answers is their sum."""
    made = [_node("Identity", ["x"], ["y"]), *nodes]
    tensors = [onnx.numpy_helper.from_array(np.asarray(each), name) for name, each in constants.items()]
    ends = [_value(name, TensorProto.FLOAT, 4) for name in "xy"]
    graph = helper.make_graph(made, "g", ends[:1], ends[1:], initializer=tensors)
    return bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]).SerializeToString())


def _loop(*nodes: onnx.NodeProto, carried: bool = False) -> onnx.NodeProto:
    """Return a loop of `k` steps, which hands what is called `v` on as `w`."""
    ends = [[_value("i", TensorProto.INT64), _value("go", TensorProto.BOOL)], [_value("on", TensorProto.BOOL)]]
    for values, name in zip(ends, "vw", strict=True):
        values += [_value(name, TensorProto.FLOAT, None)] * carried
    body = helper.make_graph([_node("Identity", ["go"], ["on"]), *nodes], "body", *ends)
    return _node("Loop", ["k", "", *["x"] * carried], ["z"] * carried, body=body)


def _steps() -> bytes:
    return onnx_file(_loop(*(_node("Neg", ["x"], [f"n{index}"]) for index in range(2000))), k=np.array(2**16))


def _nested_loops() -> bytes:
    inner = _loop(*(_node("Neg", ["x"], [f"n{index}"]) for index in range(200)))
    return onnx_file(_loop(inner), k=np.array(250))


def _doubling() -> bytes:
    names = ["x", *(f"d{index}" for index in range(27))]
    return onnx_file(*(_node("Concat", [a, a], [b], axis=0) for a, b in pairwise(names)))


def _squared(first: onnx.NodeProto) -> bytes:
    """A size that is a product of constants, or of the sizes of an input."""
    doubled = [_node("Mul", [a, a], [b]) for a, b in pairwise(["c", "c2", "c4", "c8", "c16"])]
    return onnx_file(first, *doubled, _node("ConstantOfShape", ["c16"], ["z"]), k=np.array([8]))


def _tiles() -> bytes:
    return onnx_file(_node("Tile", ["x", "k"], ["a"]), _node("Tile", ["a", "k"], ["b"]), k=np.array([2**14]))


def _weights() -> bytes:
    products = (_node("MatMul", ["k", "k"], [f"p{index}"]) for index in range(200))
    return onnx_file(*products, k=np.zeros((512, 512), np.float32))


def _outer() -> bytes:
    nodes = (_node("Tile", ["x", "k"], ["a"]), _node("Unsqueeze", ["a", "j"], ["b"]), _node("Mul", ["a", "b"], ["z"]))
    return onnx_file(*nodes, k=np.array([2**13]), j=np.array([1]))


def _growing(steps: int) -> bytes:
    return onnx_file(_loop(_node("Concat", ["v", "v"], ["w"], axis=0), carried=True), k=np.array(steps))


def _creeping() -> bytes:
    """A loop of which each step makes one number more: what it takes is only known step by step."""
    return onnx_file(_loop(_node("Concat", ["v", "j"], ["w"], axis=0), carried=True), k=np.array(2**16), j=np.ones(1))


def _creeping_constants() -> bytes:
    """The same beside very many constants, which each step would look at."""
    loop = _loop(_node("Concat", ["v", "j"], ["w"], axis=0), carried=True)
    body = loop.attribute[0].g
    body.initializer.extend(onnx.numpy_helper.from_array(np.array(0), f"k{index}") for index in range(20_000))
    return onnx_file(loop, k=np.array(2**16), j=np.ones(1))


def _axes() -> bytes:
    names = [f"a{index}" for index in range(1000)]
    nodes = [_node("Unsqueeze", [a, "k"], [b]) for a, b in pairwise(["x", *names])]
    return onnx_file(*nodes, k=np.arange(64))


def _sequences() -> bytes:
    parts = _node("SequenceConstruct", ["x"] * 4096, ["s"])
    nodes = (_node("ConcatFromSequence", ["s"], [f"c{index}"], axis=0) for index in range(5000))
    return onnx_file(parts, *nodes)


def _choices(count: int) -> bytes:
    """Many choices between graphs that are empty, beside as many constants."""
    nothing = helper.make_graph([], "g", [], [])
    nodes = [_node("If", ["go"], [], then_branch=nothing, else_branch=nothing) for _ in range(count)]
    return onnx_file(*nodes, go=np.array(True), **{f"k{index}": np.array(index) for index in range(count)})


_WRITES = r"that writes .* numbers, where 134217728 are the most"
ONNX_BOMBS: Bombs = {
    "loop": (_steps, r"needs \d+ multiplications in one run"),
    "loops in loops": (_nested_loops, r"needs \d+ multiplications in one run"),
    "doubling": (_doubling, r"needs \d+ numbers at once"),
    "tiles of tiles": (_tiles, f"'Tile' {_WRITES}"),
    "product of constants": (lambda: _squared(_node("Identity", ["k"], ["c"])), f"'ConstantOfShape' {_WRITES}"),
    "product of sizes": (lambda: _squared(_node("Shape", ["x"], ["c"])), f"'ConstantOfShape' {_WRITES}"),
    "size that only a run says": (
        lambda: _squared(_node("Cast", ["x"], ["c"], to=7)),
        r"'ConstantOfShape' which makes as many numbers as only a run says, on inputs of the shapes \[4\]",
    ),
    "growing loop": (lambda: _growing(60), r"needs \d+ numbers at once"),
    "creeping loop": (_creeping, r"has more than 30000 operators, those of a loop counted as shapes change"),
    "creeping loop beside constants": (_creeping_constants, "has more than 30000 operators"),
    "axes of axes": (_axes, "'Unsqueeze' which makes more than 16 axes"),
    "sequences": (_sequences, "has more than 30000 operators"),
    "text": (lambda: onnx_file(_node("Cast", ["x"], ["t"], to=8)), "'Cast' which makes text"),
    "weights of many": (_weights, r"has operators that unpack \d+ numbers of constants"),
    "outer product": (_outer, f"'Mul' {_WRITES}"),
    "pad": (
        lambda: onnx_file(_node("Pad", ["x", "k"], ["z"]), k=np.array([2**30, 2**30])),
        f"'Pad' {_WRITES}",
    ),
    "very many": (
        lambda: onnx_file(*(_node("Neg", ["x"], [f"n{index}"]) for index in range(31_000))),
        "has more than 30000 operators",
    ),
}
ONNX_LARGE: Mapping[str, Callable[[], bytes]] = {
    "choices": lambda: _choices(4000),
    "growing a little": lambda: _growing(10),
}
"""Files that may be much, but are not too much."""


def _shared_ports(operators: int, ports: int) -> bytes:
    """Operators of which all name one list of inputs."""
    file = FileBuilder()
    x = file.input([1])
    for _ in range(operators):
        file.add("CONCATENATION", [x], [ports], "ConcatenationOptions", axis=0)
    file.finish(x + 1)
    for each in file.graph.operators:
        each.inputs = np.full(ports, x, np.int32)
    written: dict[tuple[int, bytes], int] = {}
    make = flatbuffers.Builder.CreateNumpyVector

    def once(builder: Any, values: Any) -> int:
        key = (id(builder), values.tobytes())
        if key not in written:
            written[key] = make(builder, values)
        return written[key]

    flatbuffers.Builder.CreateNumpyVector = once
    try:
        return pack(file.model)
    finally:
        flatbuffers.Builder.CreateNumpyVector = make


def _gathers(operators: int) -> bytes:
    file = FileBuilder()
    x, indices = file.input([4]), file.constant(np.zeros(2**20, np.int32))
    for _ in range(operators):
        file.add("GATHER", [x, indices], [2**20], "GatherOptions", axis=0)
    return file.finish(len(file.graph.tensors) - 1)


def _concatenations() -> bytes:
    file = FileBuilder()
    x = file.input([4])
    for power in range(3, 30):
        x = file.add("CONCATENATION", [x, x], [2**power], "ConcatenationOptions", axis=0)
    return file.finish(x)


def _unused_graphs() -> bytes:
    file = FileBuilder()
    x = file.input([4])
    data = file.finish(file.add("NEG", [x], [4]))
    file.model.subgraphs += [file.graph] * 1000
    return pack(file.model) if data else b""


def _negations(count: int) -> bytes:
    file = FileBuilder()
    x = file.input([4])
    for _ in range(count):
        x = file.add("NEG", [x], [4])
    return file.finish(x)


TFLITE_BOMBS: Bombs = {
    "shared ports": (lambda: _shared_ports(1000, 1024), r"has more than 500000 tables, or lists as long"),
    "indices of many": (lambda: _gathers(3000), r"has operators that unpack \d+ bytes of constants"),
    "doubling": (_concatenations, r"impossible shape"),
    "graphs that nothing runs": (_unused_graphs, r"has a graph that nothing runs"),
}
TFLITE_LARGE: Mapping[str, Callable[[], bytes]] = {
    "indices of some": lambda: _gathers(70),
    "operators": lambda: _negations(5_000),
}
"""Files that may be much, but are not too much."""
