"""Which inputs of an operator may be left out, and which may hold nothing at all.

Kernels trust what the schema of their operator says, and some do not look whether an input is there that must be: ONNX
Runtime dies on a `Max` with an empty name among its inputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from edgefuse.bundle.onnx.call import Call

_MASKS = (3, 4, 5, 6)

MAY_LACK: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {
        **dict.fromkeys((f"Reduce{each}" for each in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean")), (1,)),
        **dict.fromkeys((f"Reduce{each}" for each in ("Min", "Prod", "Sum", "SumSquare")), (1,)),
        **dict.fromkeys(("Split", "SplitToSequence", "Squeeze", "Trilu"), (1,)),
        **dict.fromkeys(("Clip", "DFT", "Dropout"), (1, 2)),
        **dict.fromkeys(("Conv", "ConvTranspose", "DequantizeLinear", "Gemm", "LayerNormalization"), (2,)),
        **dict.fromkeys(("MaxUnpool", "QuantizeLinear", "TensorScatter"), (2,)),
        **dict.fromkeys(("ConvInteger", "MatMulInteger", "Pad", "STFT"), (2, 3)),
        **dict.fromkeys(("DeformConv", "Slice"), (3, 4)),
        **dict.fromkeys(("GRU", "RNN"), (3, 4, 5)),
        "Attention": _MASKS,
        "LSTM": (*_MASKS, 7),
        "Loop": (0, 1),
        "NonMaxSuppression": (2, 3, 4),
        "QLinearConv": (8,),
        "Resize": (1, 2, 3),
        "RotaryEmbedding": (3,),
    }
)
"""Places of inputs that may be left out, by operator of `ai.onnx`; of all others, none may."""

OWN_MAY_LACK: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {
        **dict.fromkeys(("DequantizeLinear", "QuantizeLinear"), (2,)),
        "Attention": _MASKS,
        "DynamicQuantizeLSTM": (*_MASKS, 7),
        "DynamicQuantizeMatMul": (3, 4),
        "FastGelu": (1,),
        "FusedConv": (2, 3),
        "GatherBlockQuantized": (3,),
        "MatMulIntegerToFloat": (4, 5, 6),
        "MatMulNBits": (3, 4, 5),
        "MultiHeadAttention": (1, 2, 3, 4, 5, 6, 7, 8, 9),
        "QAttention": (5, 6, 7, 8),
        "SkipLayerNormalization": (3, 4),
        "SkipSimplifiedLayerNormalization": (3,),
    }
)
"""The same for ONNX Runtime's own; see `READ` for those of which a kernel reads more than the schema wants."""

READ: Mapping[str, int] = MappingProxyType(
    {
        **dict.fromkeys(("QLinearAveragePool", "QLinearLeakyRelu", "QLinearSigmoid", "QLinearSoftmax"), 5),
        **dict.fromkeys(("QLinearAdd", "QLinearMul"), 8),
        "Attention": 3,
    }
)
"""How many inputs kernels of ONNX Runtime's own read without a look, where schemas let some be left out."""

_NEVER_EMPTY = frozenset(
    {
        *("Attention", "Col2Im", "DFT", "DeformConv", "Det", "GRU", "GridSample", "LSTM", "MaxUnpool", "OneHot", "RNN"),
        *("RoiAlign", "RotaryEmbedding", "STFT", "TensorScatter", "Unique"),
    }
)
"""Operators of `ai.onnx` whose kernels are at a loss with a size of zero."""


def check_inputs(call: Call, *, own: bool) -> None:
    """Refuse an operator that lacks an input which its kernel reads, or whose kernel divides by a size of zero.

    Args:
        call: the operator.
        own: whether it is ONNX Runtime's own.
    """
    may_lack = (OWN_MAY_LACK if own else MAY_LACK).get(call.kind, ())
    for place, value in enumerate(call.inputs):
        if value is None and place not in may_lack:
            raise call.refuse(f"lacks its input {place}")
        if (own or call.kind in _NEVER_EMPTY) and value is not None and not value.elements:
            raise call.refuse("takes nothing at all")
    # Kernels take it for one that is there; a loop that carries nothing ends so.
    if call.inputs and call.inputs[-1] is None and call.kind != "Loop":
        raise call.refuse("names no input last, instead of leaving it out")
    if own and len(call.inputs) < READ.get(call.kind, 0):
        raise call.refuse(f"lacks its input {len(call.inputs)}")
