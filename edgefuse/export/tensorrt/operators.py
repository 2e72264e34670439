"""The part of ONNX that TensorRT takes: operators, types and forms, and which nodes of a graph it would refuse.

Source: the support matrix of NVIDIA's parser (`docs/operators.md` of onnx/onnx-tensorrt, TensorRT 10.15, operator sets
9 to 24), without what its changelog says was added after 10.0 (windows, STFT, DeformConv, Attention, powers of
integers): graphs are to build on every TensorRT from 10.0 (operator sets up to 20) to 11. bfloat16 and the types below
eight bits are left out, since nothing here makes them. What the builder of TensorRT for RTX refuses, whatever the
matrix says, is left out too (decision 087): NonMaxSuppression, and RoiAlign, which is a plugin.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
import onnx
import onnx_ir as ir

NEWEST_OPSET: Final = 20
"""The newest operator set that the parser of TensorRT 10.0 reads."""

_FLOAT = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16})
_NUMBER = _FLOAT | {ir.DataType.INT32, ir.DataType.INT64}
_ANY = _NUMBER | {ir.DataType.BOOL}
_BOOL = frozenset({ir.DataType.BOOL})

_OPERATORS: Final[tuple[tuple[frozenset[ir.DataType], str], ...]] = (
    (
        _FLOAT,
        """
        Acos Acosh Asin Asinh Atan Atanh AveragePool BatchNormalization Ceil Celu Clip Conv ConvTranspose Cos Cosh
        CumSum Einsum Elu Erf Exp Floor GRU Gelu Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool GridSample
        GroupNormalization HardSigmoid HardSwish Hardmax InstanceNormalization IsInf LRN LSTM LayerNormalization
        LeakyRelu Log LogSoftmax LpNormalization LpPool MatMul MaxPool MeanVarianceNormalization Mish
        NonZero PRelu Pow QuantizeLinear RNN Reciprocal Resize Round Selu Sigmoid Sin Sinh
        Softmax Softplus Softsign Sqrt Tan Tanh ThresholdedRelu
        """,
    ),
    (
        _NUMBER,
        """
        Abs Add ArgMax ArgMin DepthToSpace Div Equal Greater GreaterOrEqual IsNaN Less LessOrEqual Max Mean Min Mod Mul
        Neg Pad Range ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd
        ReduceSum ReduceSumSquare Relu ScatterElements ScatterND Shrink Sign SpaceToDepth Sub Sum TopK
        """,
    ),
    (
        _ANY,
        """
        Concat ConstantOfShape Expand EyeLike Flatten Gather GatherElements GatherND Identity OneHot Reshape
        ReverseSequence Shape Size Slice Split Squeeze Tile Transpose Trilu Unsqueeze Where
        """,
    ),
    (_BOOL, "And Not Or Xor"),
    (_ANY | {ir.DataType.UINT8}, "Cast CastLike"),
    (frozenset({ir.DataType.INT8}), "DequantizeLinear"),
)

TYPES: Final[Mapping[str, frozenset[ir.DataType]]] = {
    name: types for types, names in _OPERATORS for name in names.split()
}
"""Operator to the types of its data. int8 exists from QuantizeLinear to DequantizeLinear only, uint8 before a Cast."""

_GIVES_ITS_OWN_TYPE = frozenset({"Cast", "ConstantOfShape"})
_QUANTIZING = frozenset({"QuantizeLinear", "DequantizeLinear"})


def refused(model: ir.Model) -> tuple[str, ...]:
    """Return the nodes of a graph that TensorRT would refuse: operator, reason and place, sorted."""
    opset = model.opset_imports.get("", 0)
    found = {f"operator set {opset} (at most {NEWEST_OPSET})"} if opset > NEWEST_OPSET else set()
    for node in model.graph:
        reason = _why_refused(node, opset)
        if reason:
            found.add(f"{node.op_type} ({reason}) in '{(node.name or '').rpartition('/')[0] or model.graph.name}'")
    return tuple(sorted(found))


def _why_refused(node: ir.Node, opset: int) -> str:
    """Return why TensorRT would not take a node; empty if it does."""
    if node.domain not in ("", "ai.onnx"):
        return f"of the domain {node.domain}"
    if node.op_type not in TYPES:
        return "unknown to it"
    if any(isinstance(value.type, ir.SequenceType | ir.OptionalType) for value in node.inputs if value is not None):
        return "of a sequence or an optional value"
    types = [value.dtype for value in _data(node, opset) if value.dtype is not None]
    wrong = next((kind for kind in types if kind not in TYPES[node.op_type]), None)
    if wrong is not None:
        return f"of {wrong.name.lower()}"
    restriction = _RESTRICTIONS.get(node.op_type)
    return restriction(node) if restriction else ""


def _data(node: ir.Node, opset: int) -> list[ir.Value]:
    """Return the values whose type the operator leaves open: not shapes, axes, scales."""
    if node.op_type in _QUANTIZING:
        return [value for value in node.inputs[:1] if value is not None]
    schema = onnx.defs.get_schema(node.op_type, opset)
    variables = {one.type_param_str for one in schema.type_constraints if len(one.allowed_type_strs) > 1}

    def is_open(formal: onnx.defs.OpSchema.FormalParameter) -> bool:
        return formal.type_str in variables

    last = len(schema.inputs) - 1  # the last one may stand for any number
    data = [v for i, v in enumerate(node.inputs) if v is not None and is_open(schema.inputs[min(i, last)])]
    return data + (list(node.outputs) if node.op_type in _GIVES_ITS_OWN_TYPE else [])


def _is_constant(value: ir.Value | None) -> bool:
    return value is not None and value.const_value is not None


def _constant_input(index: int, what: str) -> Callable[[ir.Node], str]:
    def check(node: ir.Node) -> str:
        given = len(node.inputs) > index and node.inputs[index] is not None
        return f"with {what} that are computed" if given and not _is_constant(node.inputs[index]) else ""

    return check


def _lp_pooling(node: ir.Node) -> str:
    return _pooling(node) if node.attributes.get_int("p", 2) in (1, 2) else "of a norm other than L1 and L2"


def _remainder(node: ir.Node) -> str:
    of_floats = any(value is not None and value.dtype in _FLOAT for value in node.inputs)
    return "of floats without fmod" if of_floats and not node.attributes.get_int("fmod", 0) else ""


def _product(node: ir.Node) -> str:
    ranks = [len(value.shape) if value is not None and value.shape is not None else 2 for value in node.inputs]
    return "of a vector by a stack of matrices" if ranks[0] == 1 and ranks[1] > 2 else ""


def _pooling(node: ir.Node) -> str:
    if len(node.attributes.get_ints("kernel_shape", ())) not in (2, 3):
        return "over other than 2 or 3 dimensions"
    if set(node.attributes.get_ints("dilations", (1,))) != {1}:
        return "with dilations"
    return "with indices as an output" if len(node.outputs) > 1 else ""


def _quantizing(node: ir.Node) -> str:
    scale = node.inputs[1]
    if not _is_constant(scale):
        return "with a scale that is computed"
    if scale is not None and scale.const_value is not None and not (scale.const_value.numpy() > 0).all():
        return "with a scale that is not positive"
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    if zero is None:
        return "" if node.op_type == "DequantizeLinear" else "to uint8"
    if zero.const_value is None or np.any(zero.const_value.numpy()):
        return "with a zero point that is not 0"
    return "" if zero.dtype == ir.DataType.INT8 else "to other than int8"


def _recurrent(node: ir.Node) -> str:
    if node.attributes.get_int("layout", 0) or node.attributes.get_int("input_forget", 0):
        return "with layout or input_forget"
    activations = list(node.attributes.get_strings("activations", ()))
    half = len(activations) // 2
    both = node.attributes.get_string("direction", "forward") == "bidirectional"
    return "with other activations backwards than forwards" if both and activations[:half] != activations[half:] else ""


def _resize(node: ir.Node) -> str:
    transformation = node.attributes.get_string("coordinate_transformation_mode", "half_pixel")
    known = ("half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn", "asymmetric", "align_corners")
    if transformation not in known or node.attributes.get_string("mode", "nearest") not in ("nearest", "linear"):
        return "in a mode other than nearest or linear, or of other coordinates"
    if node.attributes.get_string("keep_aspect_ratio_policy", "stretch") != "stretch":
        return "that keeps the aspect ratio"
    return "with antialiasing" if node.attributes.get_int("antialias", 0) else ""


def _one_output(node: ir.Node) -> str:
    return "with more than one output" if len(node.outputs) > 1 else ""


def _scattering(node: ir.Node) -> str:
    return "" if node.attributes.get_string("reduction", "none") == "none" else "with a reduction"


def _top_k(node: ir.Node) -> str:
    count = node.inputs[1]
    if count is not None and count.const_value is not None and int(count.const_value.numpy().item()) >= 3840:
        return "of 3840 or more"
    return "" if node.attributes.get_int("sorted", 1) else "unsorted"


_REDUCTIONS = [name for name in TYPES if name.startswith("Reduce")]
_AXES_SECOND = _constant_input(1, "axes")
_RESTRICTIONS: Final[Mapping[str, Callable[[ir.Node], str]]] = {
    **dict.fromkeys(("AveragePool", "MaxPool"), _pooling),
    **dict.fromkeys(_REDUCTIONS, _AXES_SECOND),
    **dict.fromkeys(("CumSum", "OneHot", "Squeeze", "Unsqueeze"), _AXES_SECOND),
    **dict.fromkeys(("QuantizeLinear", "DequantizeLinear"), _quantizing),
    **dict.fromkeys(("GRU", "LSTM", "RNN"), _recurrent),
    **dict.fromkeys(("ScatterElements", "ScatterND"), _scattering),
    "BatchNormalization": lambda node: "in training" if node.attributes.get_int("training_mode", 0) else "",
    "LayerNormalization": _one_output,
    "LpPool": _lp_pooling,
    "MatMul": _product,
    "Mod": _remainder,
    "Resize": _resize,
    "TopK": _top_k,
}
