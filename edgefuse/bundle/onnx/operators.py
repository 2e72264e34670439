"""The operators that an ONNX file may have, each with the rule that says the sizes of what it makes.

Those of `ai.onnx` but for text, optional values, losses, chance and what writes into sequences; of ONNX Runtime's own
ones (`com.microsoft`), those that edgefuse or ONNX Runtime's optimizer writes. Graphs are run by `graphs.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TypeAlias

from edgefuse.bundle.onnx import products, shapes
from edgefuse.bundle.onnx.call import Call, Shape, Value, broadcast
from edgefuse.bundle.onnx.tensors import MAX_RANK
from edgefuse.bundle.onnx.values import fold

Rule: TypeAlias = Callable[[Call], shapes.Shapes]

MICROSOFT = "com.microsoft"
MAX_SIZE = 2**62

_SAME = (
    *("Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "BatchNormalization", "BitwiseNot"),
    *("CastLike", "Ceil", "Celu", "Clip", "Cos", "Cosh", "DequantizeLinear", "Dropout"),
    *("Elu", "Erf", "Exp", "EyeLike", "Floor", "Gelu", "GroupNormalization", "HardSigmoid", "HardSwish"),
    *("Identity", "InstanceNormalization", "IsInf", "IsNaN", "LRN", "LeakyRelu", "Log"),
    *("MeanVarianceNormalization", "Mish", "Neg", "Not", "QuantizeLinear"),
    *("Reciprocal", "Relu", "ReverseSequence", "RotaryEmbedding", "Round", "ScatterND", "Selu", "Shrink", "Sigmoid"),
    *("Sign", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Swish", "Tan", "Tanh", "ThresholdedRelu", "Trilu"),
)
_ALONG = (
    *("Hardmax", "LayerNormalization", "LogSoftmax", "LpNormalization", "RMSNormalization", "Scatter"),
    *("ScatterElements", "Softmax", "TensorScatter"),
)
_ELEMENTWISE = (
    *("Add", "And", "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Div", "Equal", "Greater", "GreaterOrEqual"),
    *("Less", "LessOrEqual", "Max", "Mean", "Min", "Mod", "Mul", "Or", "Pow", "Sub", "Sum", "Where", "Xor"),
)
_REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")

RULES: Mapping[str, Rule] = MappingProxyType(
    {
        **dict.fromkeys(_SAME, shapes.same),
        **dict.fromkeys(_ALONG, shapes.along),
        **dict.fromkeys(("CumProd", "CumSum"), shapes.cumulative),
        **dict.fromkeys(_ELEMENTWISE, shapes.elementwise),
        **dict.fromkeys((f"Reduce{each}" for each in _REDUCTIONS), shapes.reduce),
        **dict.fromkeys(("Conv", "ConvInteger", "QLinearConv"), products.convolution),
        **dict.fromkeys(("MatMul", "MatMulInteger", "QLinearMatMul", "Gemm"), products.matrices),
        **dict.fromkeys(("MaxPool", "AveragePool", "LpPool"), products.pool),
        **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"), products.global_pool),
        **dict.fromkeys(("LSTM", "GRU", "RNN"), products.recurrence),
        **dict.fromkeys(("ArgMax", "ArgMin"), shapes.arg_reduce),
        **dict.fromkeys(("HannWindow", "HammingWindow", "BlackmanWindow"), shapes.window),
        **dict.fromkeys(("Resize", "Upsample"), shapes.resize),
        **dict.fromkeys(("Size", "SequenceLength"), shapes.scalar),
        "AffineGrid": shapes.affine_grid,
        "Attention": products.attention,
        "Cast": shapes.cast,
        "CenterCropPad": shapes.center_crop_pad,
        "Col2Im": shapes.blocks,
        "Compress": shapes.compress,
        "Concat": shapes.concat,
        "ConcatFromSequence": shapes.concat_sequence,
        "ConstantOfShape": shapes.filled,
        "ConvTranspose": products.transposed,
        "DFT": products.spectrum,
        "DeformConv": products.deformed,
        "DepthToSpace": shapes.depth_to_space,
        "Det": lambda call: [call.shape(0, 2)[:-2]],
        "DynamicQuantizeLinear": shapes.quantize,
        "Einsum": products.einsum,
        "Expand": shapes.expand,
        "Flatten": shapes.flatten,
        "Gather": shapes.gather,
        "GatherElements": shapes.like_second,
        "GatherND": shapes.gather_nd,
        "GridSample": shapes.grid_sample,
        "MaxUnpool": products.unpool,
        "NonMaxSuppression": shapes.suppressed,
        "NonZero": shapes.nonzero,
        "OneHot": shapes.one_hot,
        "PRelu": shapes.sloped,
        "Pad": shapes.pad,
        "Range": shapes.range_,
        "Reshape": shapes.reshape,
        "RoiAlign": shapes.regions,
        "STFT": products.short_spectrum,
        "Shape": shapes.shape_of,
        "Slice": shapes.slice_,
        "SpaceToDepth": shapes.space_to_depth,
        "Split": shapes.split,
        "Squeeze": shapes.squeeze,
        "Tile": shapes.tile,
        "TopK": shapes.top,
        "Transpose": shapes.transpose,
        "Unique": shapes.unique,
        "Unsqueeze": shapes.unsqueeze,
        # of the domain `ai.onnx`, but ONNX Runtime's
        "SimplifiedLayerNormalization": shapes.along,
    }
)
OWN: Mapping[str, Rule] = MappingProxyType(
    {
        **dict.fromkeys(
            (
                *("BiasGelu", "FastGelu", "Gelu", "QuickGelu", "SkipLayerNormalization", "RotaryEmbedding"),
                *("SkipSimplifiedLayerNormalization", "DequantizeLinear", "QuantizeLinear", "QLinearSigmoid"),
                "QLinearLeakyRelu",
            ),
            shapes.same,
        ),
        "QLinearSoftmax": shapes.along,
        **dict.fromkeys(("QLinearAdd", "QLinearMul"), lambda call: [_pairwise(call)]),
        "FusedMatMul": products.matrices,
        **dict.fromkeys(("DynamicQuantizeMatMul", "MatMulIntegerToFloat"), products.scaled_matrices),
        **dict.fromkeys(("MultiHeadAttention", "Attention", "QAttention"), products.joined_attention),
        "FusedConv": products.convolution,
        "QLinearGlobalAveragePool": products.global_pool,
        "QLinearAveragePool": products.pool,
        "MatMulNBits": products.packed_product,
        "GatherBlockQuantized": products.packed_lookup,
        "DynamicQuantizeLSTM": products.recurrence,
    }
)
"""Of the domain `com.microsoft`."""

# How much they make depends on values; what they say is the most.
_INEXACT = frozenset({"NonZero", "Compress", "Unique", "NonMaxSuppression"})
_SUM = {"SkipLayerNormalization": 3, "SkipSimplifiedLayerNormalization": 3}  # the place of what was normalized
_CHOSEN = frozenset({"Slice", "TopK", "Split"})
SEQUENCES = frozenset({"SequenceConstruct", "SplitToSequence", "SequenceAt"})


def _pairwise(call: Call) -> Shape:
    """Return the common shape of the first and fourth input: scale and zero point of the first stand between."""
    return broadcast(call.shape(), call.shape(3))


def made(call: Call, rule: Rule) -> list[Value]:
    """Return what an operator makes, so far as it is known before a run."""
    found = [tuple(max(0, min(size, MAX_SIZE)) for size in shape) for shape in rule(call)]
    if any(len(shape) > MAX_RANK for shape in found):
        raise call.refuse(f"makes more than {MAX_RANK} axes")
    given = [each for each in call.inputs if each]
    exact = call.kind not in _INEXACT and all(each.exact for each in given)
    if call.kind in _CHOSEN:
        exact = exact and all(each.values is not None for each in given[1:])
    constant = bool(given) and all(each.constant for each in given)
    values = fold(call)
    alone = rule not in (shapes.same, shapes.along)  # its further outputs are statistics, and smaller
    results = [
        Value(s, None, exact and (alone or place in (0, _SUM.get(call.kind))), constant)
        for place, s in enumerate(found[: call.outputs])
    ]
    if results and values is not None and values.shape == results[0].shape:
        results[0] = replace(results[0], values=values)
    return results


def sequence(call: Call) -> list[Value]:
    """Return what operators on sequences of tensors make."""
    if call.kind == "SequenceConstruct":
        return [Value((), parts=tuple(each for each in call.inputs if each))]
    first = call.input(0)
    if call.kind == "SequenceAt":
        place = call.input(1).values
        parts = first.parts or ()
        if place is None or place.size != 1 or place.dtype.kind not in "iu" or not parts:
            raise call.refuse("takes a tensor that only a run says")
        return [parts[call.axis(int(place.ravel()[0]), len(parts))]]
    shape = call.shape(0, 1)
    axis = call.axis(call.integer("axis", 0), len(shape))
    sizes = call.sizes(1) if call.optional(1) else (1,) * min(shape[axis], 2**16)
    sizes = sizes * -(-shape[axis] // max(1, sizes[0])) if call.optional(1) and call.shape(1) == () else sizes
    if len(sizes) > 2**12:
        raise call.refuse("makes very many tensors")
    keep = bool(call.integer("keepdims", 1)) or call.optional(1) is not None
    each = [(*shape[:axis], *((max(0, size),) if keep else ()), *shape[axis + 1 :]) for size in sizes]
    return [Value((), exact=first.exact, parts=tuple(Value(one, exact=first.exact) for one in each))]
