"""TFLite files to attack, built from the schema's objects without torch: nets, loops, and one of every operator."""

from __future__ import annotations

from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tests.attack.tflite_builder import TYPES, Array, FileBuilder, pack


def _random(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(0, 0.5, shape).astype(np.float32)


def float_net() -> bytes:
    """A small image network in float: convolutions, a residual sum, pools, a dense layer and a softmax."""
    file = FileBuilder()
    x = file.input([1, 8, 8, 3])
    window: dict[str, Any] = {"strideW": 1, "strideH": 1, "dilationWFactor": 1, "dilationHFactor": 1}
    a = file.add(
        "CONV_2D",
        [x, file.constant(_random(8, 3, 3, 3)), file.constant(_random(8))],
        [1, 8, 8, 8],
        "Conv2DOptions",
        fusedActivationFunction=3,
        **window,
    )
    b = file.add(
        "DEPTHWISE_CONV_2D",
        [a, file.constant(_random(1, 3, 3, 8)), file.constant(_random(8))],
        [1, 8, 8, 8],
        "DepthwiseConv2DOptions",
        depthMultiplier=1,
        **window,
    )
    c = file.add("ADD", [a, b], [1, 8, 8, 8], "AddOptions", fusedActivationFunction=1)
    pool: dict[str, Any] = {"strideW": 2, "strideH": 2, "filterWidth": 2, "filterHeight": 2, "padding": 1}
    d = file.add("MAX_POOL_2D", [c], [1, 4, 4, 8], "Pool2DOptions", **pool)
    e = file.add("AVERAGE_POOL_2D", [d], [1, 2, 2, 8], "Pool2DOptions", **pool)
    f = file.add("MEAN", [e, file.ints(1, 2)], [1, 8], "ReducerOptions", keepDims=False)
    g = file.add(
        "FULLY_CONNECTED", [f, file.constant(_random(5, 8)), file.constant(_random(5))], [1, 5], "FullyConnectedOptions"
    )
    return file.finish(file.add("SOFTMAX", [g], [1, 5], "SoftmaxOptions", beta=1.0))


def int8_net() -> bytes:
    """The same kind of network in int8, with a scale for each channel."""
    file = FileBuilder()
    x = file.input([1, 8, 8, 3])
    random = np.random.default_rng(1)
    scale = [0.02]

    def weights(*shape: int) -> Array:
        return random.integers(-127, 128, shape, np.int8)

    def bias(channels: int) -> int:
        values = random.integers(-500, 500, channels, np.int32)
        return file.constant(values, [0.0001] * channels)

    q = file.add("QUANTIZE", [x], [1, 8, 8, 3], "QuantizeOptions", dtype="int8", scales=scale)
    window: dict[str, Any] = {"strideW": 2, "strideH": 2, "dilationWFactor": 1, "dilationHFactor": 1}
    a = file.add(
        "CONV_2D",
        [q, file.constant(weights(8, 3, 3, 3), [0.01] * 8), bias(8)],
        [1, 4, 4, 8],
        "Conv2DOptions",
        dtype="int8",
        scales=scale,
        **window,
    )
    b = file.add(
        "DEPTHWISE_CONV_2D",
        [a, file.constant(weights(1, 3, 3, 8), [0.01] * 8, axis=3), bias(8)],
        [1, 4, 4, 8],
        "DepthwiseConv2DOptions",
        dtype="int8",
        scales=scale,
        depthMultiplier=1,
        strideW=1,
        strideH=1,
        dilationWFactor=1,
        dilationHFactor=1,
    )
    c = file.add("ADD", [a, b], [1, 4, 4, 8], "AddOptions", dtype="int8", scales=scale)
    d = file.add("MEAN", [c, file.ints(1, 2)], [1, 8], "ReducerOptions", dtype="int8", scales=scale, keepDims=False)
    e = file.add(
        "FULLY_CONNECTED",
        [d, file.constant(weights(5, 8), [0.01] * 5), bias(5)],
        [1, 5],
        "FullyConnectedOptions",
        dtype="int8",
        scales=scale,
    )
    f = file.add("SOFTMAX", [e], [1, 5], "SoftmaxOptions", dtype="int8", scales=[1 / 256], beta=1.0)
    file.graph.tensors[f].quantization.zeroPoint = np.array([-128], np.int64)
    return file.finish(file.add("DEQUANTIZE", [f], [1, 5], "DequantizeOptions"))


def attention() -> bytes:
    """Words with a length: a table in int8, attention under a mask, a mean, weights of four bits."""
    file = FileBuilder()
    ids, length = file.input([1, 6], "int32"), file.input([1], "int32")
    random = np.random.default_rng(2)
    flat = file.add("RESHAPE", [ids, file.ints(6)], [6], dtype="int32")
    table = file.constant(random.integers(-127, 128, (12, 8), np.int8), [0.01] * 12)
    x = file.add("RESHAPE", [file.add("EMBEDDING_LOOKUP", [flat, table], [6, 8]), file.ints(1, 6, 8)], [1, 6, 8])
    valid = file.add("LESS", [file.constant(np.arange(6, dtype=np.int32)), length], [6], "LessOptions", dtype="bool")
    zeros, low = file.constant(np.zeros((1, 6), np.float32)), file.constant(np.full((1, 6), -1e4, np.float32))
    mask = file.add("RESHAPE", [valid, file.ints(1, 6)], [1, 6], dtype="bool")
    mask = file.add("SELECT_V2", [mask, zeros, low], [1, 6], "SelectV2Options")
    mask = file.add("RESHAPE", [mask, file.ints(1, 1, 6)], [1, 1, 6])
    scores = file.add("BATCH_MATMUL", [x, x], [1, 6, 6], "BatchMatMulOptions", adjY=True)
    scores = file.add("ADD", [scores, mask], [1, 6, 6], "AddOptions")
    y = file.add(
        "BATCH_MATMUL",
        [file.add("SOFTMAX", [scores], [1, 6, 6], "SoftmaxOptions", beta=1.0), x],
        [1, 6, 8],
        "BatchMatMulOptions",
    )
    rows = file.constant(np.array([3, 17, 201, 86] * 4, np.uint8), [0.1] * 4, dtype="int4")
    file.graph.tensors[rows].shape = np.array([4, 8], np.int32)
    z = file.add("FULLY_CONNECTED", [y, rows], [1, 6, 4], "FullyConnectedOptions", keepNumDims=True)
    return file.finish(file.add("SUM", [z, file.ints(1)], [1, 4], "ReducerOptions"))


def blocks() -> bytes:
    """A table of four bits with scales in blocks."""
    file = FileBuilder()
    ids = file.input([3], "int32")
    table = file.constant(np.arange(128, dtype=np.uint8), dtype="int4")
    file.graph.tensors[table].shape = np.array([8, 32], np.int32)
    scales = file.constant(np.full((8, 1), 0.1, np.float16))
    details = schema.BlockwiseQuantizationT(scales=scales, zeroPoints=-1, blockSize=32)
    file.graph.tensors[table].quantization = schema.QuantizationParametersT(
        detailsType=schema.QuantizationDetails.BlockwiseQuantization, details=details
    )
    return file.finish(file.add("EMBEDDING_LOOKUP", [ids, table], [3, 32]))


def recurrent() -> bytes:
    """An LSTM over seven steps: the loop that `edgefuse.export.tflite.recurrent_loops` writes."""
    from edgefuse.export.tflite.recurrent import CODE
    from edgefuse.export.tflite.recurrent_loops import expand_recurrences

    file = FileBuilder()
    x = file.input([7, 1, 12])
    states = [file.constant(np.zeros((1, 3), np.float32)) for _ in range(2)]
    outputs = [file.tensor([7, 1, 3]), file.tensor([1, 3]), file.tensor([1, 3])]
    inputs = [x, file.constant(_random(12, 3)), *states, file.constant(_random(12))]
    code = schema.OperatorCodeT(
        deprecatedBuiltinCode=32, builtinCode=32, customCode=f"{CODE}.lstm.reverse".encode(), version=1
    )
    file.model.operatorCodes.append(code)
    file.graph.operators.append(
        schema.OperatorT(opcodeIndex=0, inputs=np.array(inputs, np.int32), outputs=np.array(outputs, np.int32))
    )
    file.finish(*outputs[:2])
    expand_recurrences(file.model)
    return pack(file.model)


def moves() -> bytes:
    """What moves and picks values: slices, pads, splits, gathers, tops, windows and scatters."""
    file = FileBuilder()
    x = file.input([2, 6, 4])
    a = file.add("SLICE", [x, file.ints(0, 1, 0), file.ints(2, 4, -1)], [2, 4, 4])
    a = file.add(
        "STRIDED_SLICE",
        [a, file.ints(0, 0, 0), file.ints(2, 4, 4), file.ints(1, 2, 1)],
        [2, 2, 4],
        "StridedSliceOptions",
        beginMask=1,
    )
    a = file.add("PAD", [a, file.constant(np.array([[0, 0], [1, 1], [0, 0]], np.int32))], [2, 4, 4], "PadOptions")
    a = file.add("TRANSPOSE", [a, file.ints(0, 2, 1)], [2, 4, 4])
    parts = [file.tensor([2, 2, 4]) for _ in range(2)]
    file.call("SPLIT", [file.scalar(1), a], parts, "SplitOptions", numSplits=2)
    a = file.add("CONCATENATION", parts[::-1], [2, 4, 4], "ConcatenationOptions", axis=1)
    rows = [file.tensor([4, 4]) for _ in range(2)]
    file.call("UNPACK", [a], rows, "UnpackOptions", num=2, axis=0)
    a = file.add("PACK", rows, [4, 2, 4], "PackOptions", valuesCount=2, axis=1)
    a = file.add("GATHER", [a, file.ints(0, 2, 1)], [3, 2, 4], "GatherOptions", axis=0)
    a = file.add(
        "MIRROR_PAD", [a, file.constant(np.array([[1, 1], [0, 1], [0, 0]], np.int32))], [5, 3, 4], "MirrorPadOptions"
    )
    a = file.add("REVERSE_V2", [a, file.ints(1)], [5, 3, 4], "ReverseV2Options")
    a = file.add("CUMSUM", [a, file.scalar(2)], [5, 3, 4], "CumsumOptions", exclusive=True)
    best, where = file.tensor([5, 3, 2]), file.tensor([5, 3, 2], "int32")
    file.call("TOPK_V2", [a, file.scalar(2)], [best, where], "TopKV2Options")
    a = file.add("GATHER_ND", [best, file.constant(np.array([[0, 1], [4, 2]], np.int32))], [2, 2])
    a = file.add("TILE", [a, file.ints(2, 3)], [4, 6], "TileOptions")
    a = file.add("BROADCAST_TO", [a, file.ints(3, 4, 6)], [3, 4, 6], "BroadcastToOptions")
    a = file.add("DYNAMIC_UPDATE_SLICE", [a, file.constant(_random(1, 2, 2)), file.ints(1, 1, 1)], [3, 4, 6])
    shown = file.add("ARG_MAX", [a, file.scalar(2)], [3, 4], "ArgMaxOptions", dtype="int32", outputType=TYPES["int32"])
    hot = [file.constant(np.array(each, np.float32)) for each in (1.0, 0.0)]
    a = file.add("ONE_HOT", [shown, file.scalar(6), *hot], [3, 4, 6], "OneHotOptions", axis=-1)
    a = file.add("SQUEEZE", [file.add("EXPAND_DIMS", [a, file.scalar(0)], [1, 3, 4, 6])], [3, 4, 6], "SqueezeOptions")
    filled = file.add("FILL", [file.ints(3, 4, 6), file.constant(np.array(2.0, np.float32))], [3, 4, 6], "FillOptions")
    return file.finish(file.add("MUL", [a, filled], [3, 4, 6], "MulOptions"), where)


def regions() -> bytes:
    """Operators that name a graph: the mean over windows that leave the padding out, and a scatter."""
    file = FileBuilder()
    x = file.input([1, 6, 6, 2])
    zero = file.constant(np.array(0, np.float32))
    a = file.add(
        "STABLEHLO_REDUCE_WINDOW",
        [x, zero],
        [1, 3, 3, 2],
        "StablehloReduceWindowOptions",
        windowDimensions=[1, 3, 3, 1],
        windowStrides=[1, 2, 2, 1],
        baseDilations=[1, 1, 1, 1],
        windowDilations=[1, 1, 1, 1],
        padding=[0, 0, 1, 1, 1, 1, 0, 0],
        bodySubgraphIndex=1,
    )
    a = file.add("RESHAPE", [a, file.ints(9, 2)], [9, 2])
    b = file.add(
        "STABLEHLO_SCATTER",
        [a, file.constant(np.array([[1], [3]], np.int32)), file.constant(np.ones((2, 2), np.float32))],
        [9, 2],
        "StablehloScatterOptions",
        updateWindowDims=[1],
        insertedWindowDims=[0],
        scatterDimsToOperandDims=[0],
        indexVectorDim=1,
        updateComputationSubgraphIndex=2,
    )
    data = file.finish(b)
    for operators in (1, 0):
        _combining(file, operators)
    return pack(file.model) if data else b""


def _combining(file: FileBuilder, operators: int) -> None:
    """Add the graph that adds two numbers, or takes the second."""
    main, file.graph = file.graph, schema.SubGraphT(tensors=[], inputs=[], outputs=[], operators=[], name=b"region")
    first, second = file.input([]), file.input([])
    file.graph.outputs = [file.add("ADD", [first, second], [], "AddOptions") if operators else second]
    file.model.subgraphs.append(file.graph)
    file.graph = main


FILES = {
    "float net": float_net,
    "int8 net": int8_net,
    "attention": attention,
    "blocks": blocks,
    "recurrent": recurrent,
    "moves": moves,
    "regions": regions,
}
