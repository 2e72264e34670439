"""A hostile TFLite file is one sentence before LiteRT sees it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from edgefuse.bundle.manifest import Manifest
from edgefuse.bundle.reader import open_bundle
from edgefuse.bundle.tflite import refuse_unsafe_tflite
from edgefuse.bundle.writer import write_bundle
from edgefuse.errors import BundleError
from tests.bundle.tflite_edits import (
    add_graph,
    add_twice,
    edited,
    make_custom,
    of_loop,
    operator,
    set_code,
    set_ends,
    set_inputs,
    set_port,
    set_signature,
    turn_around,
    with_constant,
    with_options,
    with_quantization,
    with_tensor,
)

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
