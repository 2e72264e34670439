"""ONNX files to attack, from text: nets in float and int8, words, an LSTM, four-bit weights, graphs within graphs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.numpy_helper
import onnx.parser

Array = npt.NDArray[Any]
_HEADER = '<ir_version: 10, opset_import: ["" : 20, "com.microsoft" : 1]>'


def _model(text: str, constants: Mapping[str, Array]) -> bytes:
    model = onnx.parser.parse_model(f"{_HEADER}\n{text}")
    model.graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in constants.items())
    return bytes(model.SerializeToString())


def _normal(*shape: int) -> Array:
    return np.random.default_rng(0).normal(0, 0.5, shape).astype(np.float32)


def _bytes(*shape: int) -> Array:
    return np.random.default_rng(0).integers(-127, 128, shape).astype(np.int8)


def float_net() -> bytes:
    """A small image network in float."""
    return _model(
        """net (float[1,3,8,8] x) => (float[1,5] y) {
            a = Conv<kernel_shape = [3, 3], pads = [1, 1, 1, 1], strides = [1, 1]>(x, w, b)
            c = Clip(a, low, high)
            d = Conv<group = 8, kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(c, dw)
            e = Add(c, d)
            f = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(e)
            g = AveragePool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(f)
            h = GlobalAveragePool(g)
            i = Flatten(h)
            j = Gemm<transB = 1>(i, v, u)
            y = Softmax<axis = -1>(j)
        }""",
        {
            "w": _normal(8, 3, 3, 3),
            "b": _normal(8),
            "low": np.array(0, np.float32),
            "high": np.array(6, np.float32),
            "dw": _normal(8, 1, 3, 3),
            "v": _normal(5, 8),
            "u": _normal(5),
        },
    )


def int8_net() -> bytes:
    """An image network whose precision stands in the graph: quantize, dequantize, a scale for each channel."""
    return _model(
        """net (float[1,3,8,8] x) => (float[1,4] y) {
            q = QuantizeLinear(x, s, z)
            a = DequantizeLinear(q, s, z)
            w = DequantizeLinear<axis = 0>(qw, sw, zw)
            c = Conv<kernel_shape = [3, 3], strides = [2, 2]>(a, w)
            r = Relu(c)
            p = QuantizeLinear(r, s, z)
            o = DequantizeLinear(p, s, z)
            m = ReduceMean<keepdims = 0>(o, axes)
            v = DequantizeLinear<axis = 1>(qv, sv, zv)
            y = MatMul(m, v)
        }""",
        {
            "s": np.array(0.02, np.float32),
            "z": np.array(128, np.uint8),
            "qw": _bytes(8, 3, 3, 3),
            "sw": np.full(8, 0.01, np.float32),
            "zw": np.zeros(8, np.int8),
            "axes": np.array([2, 3], np.int64),
            "qv": _bytes(8, 4),
            "sv": np.full(4, 0.01, np.float32),
            "zv": np.zeros(4, np.int8),
        },
    )


def words() -> bytes:
    """Words with a length: gather, attention under a mask, slices, splits, shapes that are computed."""
    return _model(
        """net (int32[1,n] ids, int32[1] length) => (float[1,8] y, float[1,n,8] states) {
            x = Gather(table, ids)
            shape = Shape<start = 1, end = 2>(ids)
            size = Squeeze(shape)
            size32 = Cast<to = 6>(size)
            steps = Range(zero, size32, one)
            valid = Less(steps, length)
            row = Unsqueeze(valid, first)
            mask = Where(row, nothing, low)
            a, b = Split<axis = -1, num_outputs = 2>(x)
            t = Transpose<perm = [0, 2, 1]>(b)
            scores = MatMul(a, t)
            masked = Add(scores, mask)
            weights = Softmax<axis = -1>(masked)
            mixed = MatMul(weights, x)
            normal = LayerNormalization<axis = -1>(mixed, gain, shift)
            cut = Slice(normal, start, end, axis)
            long = Expand(one_f, wide)
            filled = ConstantOfShape<value = float[1] {1.0}>(wide)
            tiled = Tile(cut, times)
            padded = Pad(tiled, pads)
            flat = Reshape(padded, flat_shape)
            hot = OneHot(ids, depth, values)
            best, where = TopK(flat, k)
            scaled = Resize<mode = "nearest">(normal, , scales)
            states = Mul(scaled, long)
            summed = ReduceSum<keepdims = 0>(states, first)
            y = Add(summed, filled)
        }""",
        {
            "table": _normal(12, 8),
            "zero": np.array(0, np.int32),
            "one": np.array(1, np.int32),
            "one_f": np.array(1, np.float32),
            "nothing": np.array(0, np.float32),
            "low": np.array(-1e4, np.float32),
            "first": np.array([1], np.int64),
            "gain": np.ones(8, np.float32),
            "shift": np.zeros(8, np.float32),
            "start": np.array([0], np.int64),
            "end": np.array([1], np.int64),
            "axis": np.array([1], np.int64),
            "wide": np.array([1, 8], np.int64),
            "times": np.array([1, 2, 1], np.int64),
            "pads": np.array([0, 0, 0, 0, 1, 0], np.int64),
            "flat_shape": np.array([1, -1], np.int64),
            "depth": np.array(12, np.int32),
            "values": np.array([0, 1], np.float32),
            "k": np.array([3], np.int64),
            "scales": np.array([1, 1, 1], np.float32),
        },
    )


def recurrent() -> bytes:
    """An LSTM in both directions, in float and in int8, and a GRU."""
    return _model(
        """net (float[6,1,4] x) => (float[6,2,1,8] y, float[6,1,1,8] z) {
            y, h, c = LSTM<hidden_size = 8, direction = "bidirectional">(x, w, r, b)
            q = com.microsoft.DynamicQuantizeLSTM<hidden_size = 8>(x, qw, qr, , , , , , sw, zw, sw, zw)
            g = GRU<hidden_size = 8, linear_before_reset = 1>(x, gw, gr)
            z = Add(q, g)
        }""",
        {
            "w": _normal(2, 32, 4),
            "r": _normal(2, 32, 8),
            "b": _normal(2, 64),
            "qw": _bytes(1, 4, 32),
            "qr": _bytes(1, 8, 32),
            "sw": np.full((1, 32), 0.01, np.float32),
            "zw": np.zeros((1, 32), np.int8),
            "gw": _normal(1, 24, 4),
            "gr": _normal(1, 24, 8),
        },
    )


def four_bits() -> bytes:
    """Four-bit weights and a four-bit table, in ONNX Runtime's own operators; a product in int8 beside."""
    return _model(
        """net (int32[1,3] ids, float[1,3,32] x) => (float[1,3,8] y) {
            t = com.microsoft.GatherBlockQuantized<gather_axis = 0, quantize_axis = 1, block_size = 32>(qt, ids, st)
            a = Add(t, x)
            b = com.microsoft.MatMulNBits<K = 32, N = 8, bits = 4, block_size = 32>(a, qw, sw)
            i, s, z = DynamicQuantizeLinear(b)
            m = MatMulInteger(i, qv, z)
            f = Cast<to = 1>(m)
            y = Mul(f, s)
        }""",
        {
            "qt": np.arange(80, dtype=np.uint8).reshape(5, 16),
            "st": np.full((5, 1), 0.1, np.float32),
            "qw": np.arange(128, dtype=np.uint8).reshape(8, 1, 16),
            "sw": np.full((8, 1), 0.1, np.float32),
            "qv": _bytes(8, 8),
        },
    )


def nested() -> bytes:
    """Graphs within graphs: a choice, a loop of three steps and a scan."""
    return _model(
        """net (float[4,2] x) => (float[2] y, float[4,2] z) {
            s = ReduceSum<keepdims = 0>(x)
            yes = Greater(s, zero)
            chosen = If(yes) <
                then_branch = then () => (float[4,2] a) { a = Mul(x, two) },
                else_branch = else () => (float[4,2] b) { b = Add(x, two) }
            >
            begin = ReduceSum<keepdims = 0>(chosen, axes)
            y = Loop(three, , begin) <body = step (int64 i, bool go, float[2] v) => (bool on, float[2] w) {
                on = Identity(go)
                w = Mul(v, two)
            }>
            last, z = Scan(begin, chosen) <num_scan_inputs = 1, body = sum (float[2] v, float[2] e)
                => (float[2] n, float[2] o) {
                n = Add(v, e)
                o = Identity(n)
            }>
        }""",
        {
            "zero": np.array(0, np.float32),
            "two": np.array(2, np.float32),
            "three": np.array(3, np.int64),
            "axes": np.array([0], np.int64),
        },
    )


FILES = {
    "float net": float_net,
    "int8 net": int8_net,
    "words": words,
    "recurrent": recurrent,
    "four bits": four_bits,
    "nested": nested,
}
