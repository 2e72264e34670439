"""TFLite files are walked before LiteRT sees them: what would crash, hang or fill it is one sentence; ours all pass."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from hypothesis import given, settings
from hypothesis import strategies as st

from edgefuse.bundle.manifest import Manifest
from edgefuse.bundle.reader import open_bundle
from edgefuse.bundle.tflite import flatbuffer, refuse_unsafe_tflite
from edgefuse.bundle.tflite.kinds import KINDS
from edgefuse.bundle.tflite.operators import fields
from edgefuse.bundle.tflite.schema import TYPES, read
from edgefuse.bundle.writer import write_bundle
from edgefuse.errors import BundleError
from tests.attack.stage_bombs import TFLITE_BOMBS as BOMBS
from tests.attack.tflite_builder import FileBuilder, pack, unpack
from tests.attack.tflite_files import FILES

SEEDS = {name: make() for name, make in FILES.items()}


@pytest.mark.parametrize("name", SEEDS)
def test_whole_files_pass(name: str) -> None:
    refuse_unsafe_tflite("a.tflite", SEEDS[name])


def edited(name: str, edit: Callable[[Any], object]) -> bytes:
    model = unpack(SEEDS[name])
    edit(model)
    return pack(model)


def main(model: Any) -> Any:
    return model.subgraphs[0]


def operator(model: Any, kind: str, graph: int = 0) -> Any:
    """Return the first operator of a kind."""
    code = getattr(schema.BuiltinOperator, kind)
    codes = [each.builtinCode for each in model.operatorCodes]
    return next(each for each in model.subgraphs[graph].operators if codes[each.opcodeIndex] == code)


def with_options(kind: str, **changes: Any) -> Callable[[Any], None]:
    def edit(model: Any) -> None:
        found = operator(model, kind)
        for name, value in changes.items():
            setattr(found.builtinOptions or found.builtinOptions2, name, value)

    return edit


def with_tensor(kind: str, side: str, position: int, **changes: Any) -> Callable[[Any], None]:
    def edit(model: Any) -> None:
        tensor = main(model).tensors[getattr(operator(model, kind), side)[position]]
        for name, value in changes.items():
            setattr(tensor, name, value)

    return edit


def with_constant(kind: str, position: int, values: Any) -> Callable[[Any], None]:
    """Put other values into the constant that an operator reads."""

    def edit(model: Any) -> None:
        tensor = main(model).tensors[operator(model, kind).inputs[position]]
        array = np.array(values, np.int32)
        tensor.shape = np.array(array.shape, np.int32)
        model.buffers.append(schema.BufferT(data=np.frombuffer(array.tobytes(), np.uint8)))
        tensor.buffer = len(model.buffers) - 1

    return edit


def with_quantization(kind: str, side: str, position: int, **changes: Any) -> Callable[[Any], None]:
    def edit(model: Any) -> None:
        tensor = main(model).tensors[getattr(operator(model, kind), side)[position]]
        for name, value in changes.items():
            setattr(tensor.quantization, name, value)

    return edit


def of_loop(graph: int, kind: str, position: int, value: int) -> Callable[[Any], None]:
    """Put another integer into the constant that an operator of a loop's graph reads."""

    def edit(model: Any) -> None:
        tensor = model.subgraphs[graph].tensors[operator(model, kind, graph).inputs[position]]
        model.buffers.append(schema.BufferT(data=np.frombuffer(np.int32(value).tobytes(), np.uint8)))
        tensor.buffer = len(model.buffers) - 1

    return edit


def set_signature(model: Any, **changes: Any) -> None:
    for name, value in changes.items():
        setattr(model.signatureDefs[0], name, value)


def set_port(model: Any, **changes: Any) -> None:
    for name, value in changes.items():
        setattr(model.signatureDefs[0].outputs[0], name, value)


def set_ends(model: Any, side: str, index: int) -> None:
    """Let the main graph begin or end with another tensor, in a file without signatures."""
    model.signatureDefs = []
    setattr(main(model), side, [index])


def set_inputs(model: Any, kind: str, *inputs: int) -> None:
    operator(model, kind).inputs = np.array(inputs, np.int32)


def add_twice(model: Any) -> None:
    main(model).operators.append(main(model).operators[0])


def turn_around(model: Any) -> None:
    main(model).operators.reverse()


def make_custom(model: Any) -> None:
    model.operatorCodes[0] = schema.OperatorCodeT(deprecatedBuiltinCode=32, builtinCode=32, customCode=b"mine")


def set_code(code: int) -> Callable[[Any], None]:
    def edit(model: Any) -> None:
        model.operatorCodes[0] = schema.OperatorCodeT(deprecatedBuiltinCode=min(code, 127), builtinCode=code, version=1)

    return edit


def add_graph(model: Any) -> None:
    model.subgraphs.append(schema.SubGraphT(tensors=[], inputs=[], outputs=[], operators=[]))


# Seed, what is done to it, and what is said.
HOSTILE: dict[str, tuple[str, Callable[[Any], object], str]] = {
    "signature of no graph": ("float net", lambda m: set_signature(m, subgraphIndex=1), "a signature of the graph 1"),
    "signature without a name": (
        "float net",
        lambda m: set_signature(m, signatureKey=None),
        "a signature without a name",
    ),
    "two signatures of a name": (
        "float net",
        lambda m: m.signatureDefs.append(m.signatureDefs[0]),
        "or two of one name",
    ),
    "port of no tensor": ("float net", lambda m: set_port(m, tensorIndex=10**6), "whose ports are not those"),
    "port of another tensor": ("float net", lambda m: set_port(m, tensorIndex=3), "whose ports are not those"),
    "port without a name": ("float net", lambda m: set_port(m, name=None), "a port without a name"),
    "name that is no text": ("float net", lambda m: set_port(m, name=b"\xff"), "that is not UTF-8"),
    "name with a zero": ("float net", lambda m: set_port(m, name=b"a\0b"), "with a zero in it"),
    "input out of range": ("float net", lambda m: set_inputs(m, "MEAN", 10**6, 12), "reads the tensor 1000000 of"),
    "input far below": ("float net", lambda m: set_inputs(m, "MEAN", -(2**31), 12), "reads the tensor -2147483648 of"),
    "input left out": ("float net", lambda m: set_inputs(m, "SOFTMAX", -1), "SOFTMAX whose input 0 is left out"),
    "no input": ("float net", lambda m: set_inputs(m, "SOFTMAX"), "SOFTMAX whose inputs are 0"),
    "output out of range": (
        "float net",
        lambda m: setattr(operator(m, "MEAN"), "outputs", [-1]),
        "makes the tensor -1",
    ),
    "graph input out of range": ("float net", lambda m: set_ends(m, "inputs", -1), "with the input -1"),
    "graph output out of range": ("float net", lambda m: set_ends(m, "outputs", 999), "that nothing makes"),
    "operator twice": ("float net", add_twice, "again or out of range"),
    "operators out of order": ("float net", turn_around, "before it is made"),
    "code out of range": ("float net", lambda m: setattr(operator(m, "MEAN"), "opcodeIndex", 99), "of the code 99 of"),
    "custom operator": ("float net", make_custom, "a custom operator 'mine'"),
    "unknown operator": ("float net", set_code(10**6), "of the code 1000000, which is none that edgefuse writes"),
    "operator with state": ("float net", set_code(129), "of the code 129"),
    "operator of strings": ("float net", set_code(10), "of the code 10"),
    "options of another": (
        "float net",
        lambda m: setattr(operator(m, "MEAN"), "builtinOptionsType", 1),
        "options of another",
    ),
    "custom options": ("float net", lambda m: setattr(operator(m, "MEAN"), "customOptions", [1]), "options of its own"),
    "intermediates": ("float net", lambda m: setattr(operator(m, "MEAN"), "intermediates", [1]), "numbers in a list"),
    "stride of 0": ("float net", with_options("CONV_2D", strideH=0), "CONV_2D whose stride_h is 0"),
    "stride below 0": ("float net", with_options("CONV_2D", strideW=-1), "CONV_2D whose stride_w is -1"),
    "huge dilation": ("float net", with_options("CONV_2D", dilationHFactor=2**30), "dilation_h_factor is"),
    "no multiplier": ("float net", with_options("DEPTHWISE_CONV_2D", depthMultiplier=0), "depth_multiplier is 0"),
    "pool of nothing": (
        "float net",
        with_options("MAX_POOL_2D", filterHeight=0),
        "MAX_POOL_2D whose filter_height is 0",
    ),
    "unknown activation": (
        "float net",
        with_options("ADD", fusedActivationFunction=5),
        "fused_activation_function is 5",
    ),
    "unknown padding": ("float net", with_options("CONV_2D", padding=7), "padding is 7"),
    "options left out": (
        "float net",
        lambda m: setattr(operator(m, "CONV_2D"), "builtinOptionsType", 0),
        "stride_h is 0",
    ),
    "shape that does not follow": (
        "float net",
        with_tensor("CONV_2D", "outputs", 0, shape=[1, 9, 8, 8]),
        "outputs are",
    ),
    "size of 0": (
        "float net",
        with_tensor("CONV_2D", "outputs", 0, shape=[1, 0, 8, 8]),
        "impossible shape [1, 0, 8, 8]",
    ),
    "size below 0": ("float net", with_tensor("CONV_2D", "outputs", 0, shape=[1, -8, 8, 8]), "impossible shape"),
    "huge tensor": ("float net", with_tensor("CONV_2D", "outputs", 0, shape=[2**15, 2**15]), "impossible shape"),
    "many axes": ("float net", with_tensor("CONV_2D", "outputs", 0, shape=[1] * 7), "7 numbers in a list"),
    "open size": ("float net", with_tensor("CONV_2D", "outputs", 0, shapeSignature=[-1, 8, 8, 8]), "of an open size"),
    "variable": ("float net", with_tensor("CONV_2D", "outputs", 0, isVariable=True), "that is variable"),
    "unknown type": ("float net", with_tensor("CONV_2D", "outputs", 0, type=99), "of the unknown type 99"),
    "text": ("float net", with_tensor("CONV_2D", "outputs", 0, type=5), "of the unknown type 5"),
    "another type": ("float net", with_tensor("SOFTMAX", "outputs", 0, type=2), "SOFTMAX whose output 0 is int32"),
    "buffer out of range": ("float net", with_tensor("CONV_2D", "inputs", 1, buffer=99), "in the buffer 99 of"),
    "constant too short": (
        "float net",
        with_tensor("CONV_2D", "inputs", 1, shape=[9, 3, 3, 3]),
        "of 864 bytes, expected 972",
    ),
    "in another file": ("float net", with_tensor("CONV_2D", "inputs", 1, externalBuffer=1), "or in another file"),
    "sparse": ("float net", with_tensor("CONV_2D", "inputs", 1, sparsity=schema.SparsityParametersT()), "sparse"),
    "axis out of range": ("float net", with_constant("MEAN", 1, [1, 9]), "MEAN whose axis is 9"),
    "bias of another size": (
        "float net",
        with_tensor("CONV_2D", "inputs", 2, buffer=0, shape=[7]),
        "before it is made",
    ),
    "many scales": (
        "int8 net",
        with_quantization("CONV_2D", "inputs", 1, scale=np.ones(3, np.float32)),
        "3 scales and 8",
    ),
    "scale of 0": (
        "int8 net",
        with_quantization("ADD", "outputs", 0, scale=np.zeros(1, np.float32)),
        "the scales 0 to 0",
    ),
    "scale that is none": (
        "int8 net",
        with_quantization("ADD", "outputs", 0, scale=np.array([np.nan], np.float32)),
        "nan",
    ),
    "tiny scale": (
        "int8 net",
        with_quantization("ADD", "outputs", 0, scale=np.array([1e-9], np.float32)),
        "scale is below",
    ),
    "zero point": (
        "int8 net",
        with_quantization("ADD", "outputs", 0, zeroPoint=np.array([300])),
        "zero points that int8",
    ),
    "axis of scales": ("int8 net", with_quantization("CONV_2D", "inputs", 1, quantizedDimension=9), "along axis 9"),
    "axis of weights": ("int8 net", with_quantization("CONV_2D", "inputs", 1, quantizedDimension=1), "along axis 1"),
    "no scale": ("int8 net", with_tensor("CONV_2D", "outputs", 0, quantization=None), "of int8 has no scale"),
    "block of 0": (
        "blocks",
        with_quantization("EMBEDDING_LOOKUP", "inputs", 1, details=schema.BlockwiseQuantizationT()),
        "blocks of 0",
    ),
    "scales of blocks": (
        "blocks",
        with_quantization("EMBEDDING_LOOKUP", "inputs", 1, details=schema.BlockwiseQuantizationT(99, -1, 32)),
        "by the tensor 99 of",
    ),
    "shape of another size": ("moves", with_constant("BROADCAST_TO", 1, [2**20, 2**20]), "output would be"),
    "filled without end": ("moves", with_constant("FILL", 0, [2**15, 2**15, 4]), "output would be"),
    "tiled without end": ("moves", with_constant("TILE", 1, [2**20, 2**20]), "outputs are"),
    "padded without end": ("moves", with_constant("PAD", 1, [[0, 2**30], [0, 0], [0, 0]]), "input 1 is"),
    "cut out of nothing": ("moves", with_constant("SLICE", 1, [0, 9, 0]), "box of"),
    "step of 0": ("moves", with_constant("STRIDED_SLICE", 3, [1, 0, 1]), "part of axis 1 is empty"),
    "index out of range": ("moves", with_constant("GATHER", 1, [0, 2, 9]), "indices are 0 to 9 of 4"),
    "index below 0": ("moves", with_constant("GATHER_ND", 1, [[0, -1], [4, 2]]), "indices are -1 to 4"),
    "order of no axes": ("moves", with_constant("TRANSPOSE", 1, [0, 0, 1]), "order is [0, 0, 1]"),
    "parts of nothing": ("moves", with_options("SPLIT", numSplits=0), "2 parts do not fit"),
    "top of too many": ("moves", with_constant("TOPK_V2", 1, 9), "input 1 is [9]"),
    "mirrored too far": ("moves", with_constant("MIRROR_PAD", 1, [[5, 1], [0, 1], [0, 0]]), "larger than the input"),
    "window of nothing": (
        "regions",
        with_options("STABLEHLO_REDUCE_WINDOW", windowDimensions=[1, 0, 3, 1]),
        "window_dimensions is",
    ),
    "window of another rank": (
        "regions",
        with_options("STABLEHLO_REDUCE_WINDOW", windowStrides=[1]),
        "window_strides is",
    ),
    "window of no graph": (
        "regions",
        with_options("STABLEHLO_REDUCE_WINDOW", bodySubgraphIndex=9),
        "runs the graph 9 of 3",
    ),
    "scatter to no axis": (
        "regions",
        with_options("STABLEHLO_SCATTER", insertedWindowDims=[9]),
        "inserted_window_dims is",
    ),
    "scatter by no vector": ("regions", with_options("STABLEHLO_SCATTER", indexVectorDim=2), "index_vector_dim is 2"),
    "graph that runs itself": ("recurrent", with_options("WHILE", bodySubgraphIndex=0), "runs the graph 0"),
    "graph below 0": ("recurrent", with_options("WHILE", condSubgraphIndex=-1), "cond_subgraph_index is -1"),
    "graph of two operators": ("recurrent", with_options("WHILE", bodySubgraphIndex=1), "runs the graph 1"),
    "graph that nothing runs": ("float net", add_graph, "has a graph that nothing runs"),
    "endless loop": ("recurrent", of_loop(1, "LESS", 1, 2**31 - 1), "loop makes"),
    "long loop": ("recurrent", of_loop(1, "LESS", 1, 70_000), "loop makes 70000 steps, of at most 65536"),
    "loop that stands still": ("recurrent", lambda m: _still(m), "input 1 is [0]"),
    "loop that counts nothing": ("recurrent", lambda m: _uncounted(m), "counter is not added to"),
    "metadata": (
        "float net",
        lambda m: setattr(m.metadata[0], "name", b"model_control_dependencies"),
        "unknown metadata",
    ),
    "metadata in no buffer": ("float net", lambda m: setattr(m.metadata[0], "buffer", 99), "metadata in the buffer 99"),
    "version": ("float net", lambda m: setattr(m, "version", 4), "is of schema version 4"),
    "no graph": ("float net", lambda m: setattr(m, "subgraphs", []), "has no graph"),
}


def _still(model: Any) -> None:
    body = model.subgraphs[2]
    code = schema.BuiltinOperator.ADD
    last = [each for each in body.operators if model.operatorCodes[each.opcodeIndex].builtinCode == code][-1]
    model.buffers.append(schema.BufferT(data=np.frombuffer(np.int32(0).tobytes(), np.uint8)))
    body.tensors[last.inputs[1]].buffer = len(model.buffers) - 1


def _uncounted(model: Any) -> None:
    """Hand the counter on as it is."""
    body = model.subgraphs[2]
    body.outputs = [body.inputs[0], *body.outputs[1:]]


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_file_is_one_sentence(case: str) -> None:
    seed, edit, said = HOSTILE[case]
    with pytest.raises(BundleError) as caught:
        refuse_unsafe_tflite("stages/a.tflite", edited(seed, edit))
    message = str(caught.value)
    assert message.startswith("the TFLite file 'stages/a.tflite' ")
    assert message.endswith("Fix: compile the bundle again.")
    assert said in message
    assert len(message) < 400


def test_what_lives_at_once_has_a_bound() -> None:
    file = FileBuilder()
    x = file.input([1])
    wide = [file.add("BROADCAST_TO", [x, file.ints(2**26)], [2**26]) for _ in range(5)]
    data = file.finish(file.add("CONCATENATION", wide, [5 * 2**26], "ConcatenationOptions"))
    with pytest.raises(BundleError, match="impossible shape"):
        refuse_unsafe_tflite("a.tflite", data)
    total = wide[0]
    for other in wide[1:]:
        total = file.add("ADD", [total, other], [2**26], "AddOptions")
    del file.graph.operators[5], file.graph.tensors[11]
    for each in file.graph.operators[5:]:
        each.inputs, each.outputs = (np.where(part > 11, part - 1, part) for part in (each.inputs, each.outputs))
    with pytest.raises(BundleError, match="needs 1610612736 bytes at once, where 1073741824 are the most"):
        refuse_unsafe_tflite("a.tflite", file.finish(total - 1))


def test_what_one_run_computes_has_a_bound() -> None:
    file = FileBuilder()
    x = file.input([1, 1])
    for _ in range(3):
        a = file.add("BROADCAST_TO", [x, file.ints(2**13, 2**13)], [2**13, 2**13])
        b = file.add("BATCH_MATMUL", [a, a], [2**13, 2**13], "BatchMatMulOptions")
        x = file.add("SLICE", [b, file.ints(0, 0), file.ints(1, 1)], [1, 1])
    data = file.finish(x)
    with pytest.raises(BundleError, match=r"needs \d+ multiplications in one run, where 274877906944 are the most"):
        refuse_unsafe_tflite("a.tflite", data)


def test_constants_that_many_operators_unpack_have_a_bound() -> None:
    file = FileBuilder()
    x = file.input([1, 1024])
    weights = file.constant(np.zeros((1024, 1024), np.float32))
    for _ in range(100):
        x = file.add("FULLY_CONNECTED", [x, weights], [1, 1024], "FullyConnectedOptions")
    with pytest.raises(BundleError, match="has operators that unpack 419430"):
        refuse_unsafe_tflite("a.tflite", file.finish(x))


@pytest.mark.parametrize("case", BOMBS)
def test_a_file_costs_what_its_bytes_cost(case: str) -> None:
    make, said = BOMBS[case]
    data = make()
    begin = time.process_time()
    with pytest.raises(BundleError, match=said):
        refuse_unsafe_tflite("a.tflite", data)
    assert time.process_time() - begin < 1


@pytest.mark.parametrize("start", [0, 2, 100])
def test_loops_count_from_and_by_what_stands_in_the_file(start: int) -> None:
    def edit(model: Any) -> None:
        tensor = main(model).tensors[operator(model, "WHILE").inputs[0]]
        model.buffers.append(schema.BufferT(data=np.frombuffer(np.int32(start).tobytes(), np.uint8)))
        tensor.buffer = len(model.buffers) - 1

    refuse_unsafe_tflite("a.tflite", edited("recurrent", edit))


def test_constants_behind_the_flatbuffer_pass_and_are_bounded() -> None:
    """The form of files beyond 2 GB: buffers say where in the file their values lie."""
    model = unpack(SEEDS["float net"])
    tail = b""
    for buffer in model.buffers[2:]:
        buffer.offset, buffer.size, tail = len(tail), len(buffer.data), tail + buffer.data.tobytes().ljust(1024, b"\0")
        buffer.data = None
    front = pack(model)
    begin = -(-len(front) // 16) * 16
    for buffer in model.buffers[2:]:
        buffer.offset += begin
    data = pack(model).ljust(begin, b"\0") + tail
    refuse_unsafe_tflite("a.tflite", data)
    with pytest.raises(BundleError, match=r"has a buffer of \d+ bytes at byte"):
        refuse_unsafe_tflite("a.tflite", data[:-1024])


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "does not begin as a file of the kind TFL3 does"),
        (b"\x08\0\0\0TFL4" + bytes(20), "does not begin as a file of the kind TFL3 does"),
        (b"\xff\xff\xff\xffTFL3" + bytes(20), "is malformed: the offset at byte 0 leads to byte 4294967295 of 28"),
        (b"\0\0\0\0TFL3" + bytes(20), "is malformed: the offset at byte 0 leads to byte 0"),
        (b"\x08\0\0\0TFL3" + struct.pack("<i", -1000) + bytes(20), "has its fields listed at byte 1008"),
        (b"\x08\0\0\0TFL3" + struct.pack("<i", 8) + bytes(20), "does not lie within the file"),
    ],
)
def test_a_malformed_file_is_refused(data: bytes, said: str) -> None:
    with pytest.raises(BundleError, match=said):
        refuse_unsafe_tflite("a.tflite", data)


def test_offsets_that_all_name_one_thing_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flatbuffer, "MAX_READS", 50)
    with pytest.raises(BundleError, match="has more than 50 tables"):
        refuse_unsafe_tflite("a.tflite", SEEDS["moves"])


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=200))
def test_no_input_does_anything_else(data: bytes) -> None:
    with suppress(BundleError):
        refuse_unsafe_tflite("a.tflite", b"\x08\0\0\0TFL3" + data)


@settings(max_examples=300, deadline=None)
@given(name=st.sampled_from(sorted(SEEDS)), data=st.data())
def test_no_damage_does_anything_else(name: str, data: st.DataObject) -> None:
    whole = bytearray(SEEDS[name])
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    with suppress(BundleError):
        refuse_unsafe_tflite("a.tflite", bytes(whole))


def test_bundles_with_hostile_files_are_neither_written_nor_read(
    tmp_path: Path, manifest: Manifest, contents: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    tflite = msgspec.structs.replace(
        manifest,
        candidates=tuple(
            msgspec.structs.replace(each, file=each.file.replace(".bin", ".TFLite")) for each in manifest.candidates
        ),
    )
    contents = {name.replace(".bin", ".TFLite"): data for name, data in contents.items() if "golden" not in name} | {
        name: data for name, data in contents.items() if "golden" in name
    }
    with pytest.raises(
        BundleError, match=r"the TFLite file 'stages/.*\.TFLite' does not begin as a file of the kind TFL3"
    ):
        write_bundle(tmp_path / "b", tflite, contents)
    monkeypatch.setattr("edgefuse.bundle.writer.checks", lambda manifest: {})
    write_bundle(tmp_path / "b", tflite, contents)
    with open_bundle(tmp_path / "b") as bundle, pytest.raises(BundleError, match="the TFLite file"):
        bundle.read(next(name for name in contents if name.startswith("stages/")))


def _slot(name: str, table: str) -> int:
    """Return the number of a field, as the schema's own reader finds it."""
    source = Path(schema.__file__).read_text(encoding="utf-8").split(f"class {table}(object)")[1].split("\nclass ")[0]
    camel = "".join(part.capitalize() for part in name.split("_"))
    body = source.split(f"def {camel}(self")[1]
    return (int(body.split("self._tab.Offset(")[1].split(")")[0]) - 4) // 2


@pytest.mark.parametrize("name", KINDS)
def test_operators_and_their_options_are_those_of_the_schema(name: str) -> None:
    kind = KINDS[name]
    assert getattr(schema.BuiltinOperator, name) == kind.code
    unions = schema.BuiltinOptions2 if kind.second else schema.BuiltinOptions
    tables = {number: table for table, number in vars(unions).items() if isinstance(number, int)}
    for field in fields(kind.options):
        assert _slot(field.name, tables[kind.union]) == field.number, field
    if kind.union:
        camel = {field.name: _camel(field.name) for field in fields(kind.options)}
        made = vars(getattr(schema, f"{tables[kind.union]}T")())
        for field in fields(kind.options):
            assert field.listed or made[camel[field.name]] == field.default, field


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


def test_types_are_those_of_the_schema() -> None:
    names = {number: name for name, number in vars(schema.TensorType).items() if isinstance(number, int)}
    assert {number: names[number].lower() for number in TYPES} == {number: name for number, (name, _) in TYPES.items()}


@pytest.mark.parametrize(
    ("table", "numbers"),
    [
        (
            "Model",
            {"Version": 0, "OperatorCodes": 1, "Subgraphs": 2, "Description": 3, "Buffers": 4, "MetadataBuffer": 5},
        ),
        ("Model", {"Metadata": 6, "SignatureDefs": 7, "ExternalBufferGroups": 8, "ExternalBuffers": 9}),
        ("OperatorCode", {"DeprecatedBuiltinCode": 0, "CustomCode": 1, "Version": 2, "BuiltinCode": 3}),
        ("SubGraph", {"Tensors": 0, "Inputs": 1, "Outputs": 2, "Operators": 3, "Name": 4}),
        ("Tensor", {"Shape": 0, "Type": 1, "Buffer": 2, "Name": 3, "Quantization": 4, "IsVariable": 5, "Sparsity": 6}),
        ("Tensor", {"ShapeSignature": 7, "VariantTensors": 9, "ExternalBuffer": 10}),
        (
            "QuantizationParameters",
            {"Scale": 2, "ZeroPoint": 3, "DetailsType": 4, "Details": 5, "QuantizedDimension": 6},
        ),
        ("BlockwiseQuantization", {"Scales": 0, "ZeroPoints": 1, "BlockSize": 2}),
        ("Buffer", {"Data": 0, "Offset": 1, "Size": 2}),
        ("Operator", {"OpcodeIndex": 0, "Inputs": 1, "Outputs": 2, "BuiltinOptionsType": 3, "BuiltinOptions": 4}),
        ("Operator", {"CustomOptions": 5, "MutatingVariableInputs": 7, "Intermediates": 8}),
        ("Operator", {"LargeCustomOptionsOffset": 9, "BuiltinOptions2Type": 11, "BuiltinOptions2": 12}),
        ("Metadata", {"Name": 0, "Buffer": 1}),
        ("SignatureDef", {"Inputs": 0, "Outputs": 1, "SignatureKey": 2, "SubgraphIndex": 4}),
        ("TensorMap", {"Name": 0, "TensorIndex": 1}),
    ],
)
def test_fields_are_those_of_the_schema(table: str, numbers: dict[str, int]) -> None:
    """The numbers that `schema.py` and `quantization.py` read by."""
    source = Path(schema.__file__).read_text(encoding="utf-8").split(f"class {table}(object)")[1].split("\nclass ")[0]
    for name, number in numbers.items():
        body = source.split(f"def {name}(self")[1]
        assert (int(body.split("self._tab.Offset(")[1].split(")")[0]) - 4) // 2 == number, name


def test_values_are_read_as_they_are() -> None:
    model = read(SEEDS["int8 net"])
    weights = model.graphs[0].tensors[model.graphs[0].operators[1].inputs[1]]
    assert (weights.dtype, weights.shape, weights.quantization.axis) == ("int8", (8, 3, 3, 3), 0)
    values = model.values(weights)
    assert values is not None
    assert values.tobytes() == unpack(SEEDS["int8 net"]).buffers[2].data.tobytes()
