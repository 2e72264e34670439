"""The operators that a TFLite file may have: those that litert-torch and ai-edge-quantizer write for torch models.

Whatever is not here is refused: custom operators, state, strings, randomness, operators whose output has a size that
depends on values, and control flow but for counted loops. Numbers are those of the schema; a test compares them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

from edgefuse.bundle.tflite import products, shapes
from edgefuse.bundle.tflite.call import Call

Rule: TypeAlias = Callable[[Call], shapes.Shapes]


@dataclass(frozen=True, slots=True)
class Kind:
    """One operator.

    Attributes:
        code: in the schema.
        types: of inputs and outputs, before and behind `>`. Small letters stand for one type each (`x` for one that can
            be computed with), capitals are in `operators.py`. A `?` behind: may be left out; a `+`: one or more.
        rule: what it makes of shapes.
        union: the number of its options in the schema's union; 0 where it has none.
        options: as `name:number type=default` with spaces; a type in brackets is a list.
        second: whether its options stand in the second union.
    """

    code: int
    types: str
    rule: Rule
    union: int = 0
    options: str = ""
    second: bool = False


_FUSED = "fused_activation_function:0b"
_STRIDES = "padding:0b stride_w:1i stride_h:2i"
_POOL = f"{_STRIDES} filter_width:3i filter_height:4i fused_activation_function:5b"
_CORNERS = "align_corners:2? half_pixel_centers:3?"
_KEEP = "keep_dims:0?"
_DILATIONS = "dilation_w_factor:{}i=1 dilation_h_factor:{}i=1"

KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "ADD": Kind(0, "x,x>x", shapes.elementwise, 11, _FUSED),
        "AVERAGE_POOL_2D": Kind(1, "x>x", products.pool, 5, _POOL),
        "CONCATENATION": Kind(2, "a+>a", shapes.concatenate, 10, "axis:0i fused_activation_function:1b"),
        "CONV_2D": Kind(
            3,
            "x,b,*>x",
            products.convolution,
            1,
            f"{_STRIDES} fused_activation_function:3b {_DILATIONS.format(4, 5)} quantized_bias_type:6b",
        ),
        "DEPTHWISE_CONV_2D": Kind(
            4,
            "x,b,*>x",
            products.depthwise,
            2,
            f"{_STRIDES} depth_multiplier:3i fused_activation_function:4b {_DILATIONS.format(5, 6)}",
        ),
        "DEPTH_TO_SPACE": Kind(5, "a>a", shapes.depth_to_space, 94, "block_size:0i"),
        "DEQUANTIZE": Kind(6, "*>F", shapes.same, 38),
        "EMBEDDING_LOOKUP": Kind(7, "N,a>b", shapes.lookup),
        "FLOOR": Kind(8, "x>x", shapes.same),
        "FULLY_CONNECTED": Kind(
            9,
            "x,b,*?>x",
            products.dense,
            8,
            f"{_FUSED} weights_format:1b keep_num_dims:2? asymmetric_quantize_inputs:3? quantized_bias_type:4b",
        ),
        "L2_NORMALIZATION": Kind(11, "x>x", shapes.along, 12, _FUSED),
        "LOGISTIC": Kind(14, "x>x", shapes.same),
        "MAX_POOL_2D": Kind(17, "x>x", products.pool, 5, _POOL),
        "MUL": Kind(18, "x,x>x", shapes.elementwise, 21, _FUSED),
        "RELU": Kind(19, "x>x", shapes.same),
        "RELU_N1_TO_1": Kind(20, "x>x", shapes.same),
        "RELU6": Kind(21, "x>x", shapes.same),
        "RESHAPE": Kind(22, "a,N?>a", shapes.reshape, 17, "new_shape:0[i]"),
        "RESIZE_BILINEAR": Kind(23, "x,N>x", shapes.resize, 15, _CORNERS),
        "SOFTMAX": Kind(25, "x>x", shapes.along, 9, "beta:0f"),
        "SPACE_TO_DEPTH": Kind(26, "a>a", shapes.space_to_depth, 19, "block_size:0i"),
        "TANH": Kind(28, "x>x", shapes.same),
        "PAD": Kind(34, "a,I>a", shapes.pad, 22),
        "GATHER": Kind(36, "a,J>a", shapes.gather, 23, "axis:0i batch_dims:1i"),
        "TRANSPOSE": Kind(39, "a,N>a", shapes.transpose, 26),
        "MEAN": Kind(40, "x,N>x", shapes.reduce, 27, _KEEP),
        "SUB": Kind(41, "x,x>x", shapes.elementwise, 28, _FUSED),
        "DIV": Kind(42, "x,x>x", shapes.elementwise, 29, _FUSED),
        "SQUEEZE": Kind(43, "a>a", shapes.squeeze, 30, "squeeze_dims:0[i]"),
        "STRIDED_SLICE": Kind(
            45,
            "a,I,I,I>a",
            shapes.strided_slice,
            32,
            "begin_mask:0i end_mask:1i ellipsis_mask:2i new_axis_mask:3i shrink_axis_mask:4i offset:5?",
        ),
        "EXP": Kind(47, "x>x", shapes.same, 33),
        "TOPK_V2": Kind(48, "x,N>x,N", shapes.top, 34),
        "SPLIT": Kind(49, "N,a>a+", shapes.split, 35, "num_splits:0i"),
        "LOG_SOFTMAX": Kind(50, "x>x", shapes.along, 36),
        "CAST": Kind(53, "*>*", shapes.same, 37, "in_data_type:0b out_data_type:1b"),
        "PRELU": Kind(54, "x,x>x", shapes.onto_first),
        "MAXIMUM": Kind(55, "x,x>x", shapes.elementwise, 39),
        "ARG_MAX": Kind(56, "x,I>J", shapes.arg_reduce, 40, "output_type:0b"),
        "MINIMUM": Kind(57, "x,x>x", shapes.elementwise, 39),
        "LESS": Kind(58, "x,x>B", shapes.elementwise, 41),
        "NEG": Kind(59, "x>x", shapes.same, 42),
        "PADV2": Kind(60, "a,I,a>a", shapes.pad, 43),
        "GREATER": Kind(61, "x,x>B", shapes.elementwise, 44),
        "GREATER_EQUAL": Kind(62, "x,x>B", shapes.elementwise, 45),
        "LESS_EQUAL": Kind(63, "x,x>B", shapes.elementwise, 46),
        "SELECT": Kind(64, "B,a,a>a", shapes.select, 47),
        "SLICE": Kind(65, "a,I,I>a", shapes.slice_, 48),
        "SIN": Kind(66, "x>x", shapes.same),
        "TRANSPOSE_CONV": Kind(
            67,
            "N,b,x,*>x",
            products.transposed,
            49,
            f"{_STRIDES} fused_activation_function:3b quantized_bias_type:4b",
        ),
        "TILE": Kind(69, "a,I>a", shapes.tile, 51),
        "EXPAND_DIMS": Kind(70, "a,I>a", shapes.expand_dims, 52),
        "EQUAL": Kind(71, "x,x>B", shapes.elementwise, 53),
        "NOT_EQUAL": Kind(72, "x,x>B", shapes.elementwise, 54),
        "LOG": Kind(73, "x>x", shapes.same),
        "SUM": Kind(74, "x,N>x", shapes.reduce, 27, _KEEP),
        "SQRT": Kind(75, "x>x", shapes.same),
        "RSQRT": Kind(76, "x>x", shapes.same),
        "POW": Kind(78, "x,x>x", shapes.elementwise, 56),
        "ARG_MIN": Kind(79, "x,I>J", shapes.arg_reduce, 57, "output_type:0b"),
        "REDUCE_PROD": Kind(81, "x,N>x", shapes.reduce, 27, _KEEP),
        "REDUCE_MAX": Kind(82, "x,N>x", shapes.reduce, 27, _KEEP),
        "PACK": Kind(83, "a+>a", shapes.pack, 59, "values_count:0i axis:1i"),
        "LOGICAL_OR": Kind(84, "B,B>B", shapes.elementwise, 60),
        "ONE_HOT": Kind(85, "I,N,a,a>a", shapes.one_hot, 61, "axis:0i"),
        "LOGICAL_AND": Kind(86, "B,B>B", shapes.elementwise, 62),
        "LOGICAL_NOT": Kind(87, "B>B", shapes.same, 63),
        "UNPACK": Kind(88, "a>a+", shapes.unpack, 64, "num:0i axis:1i"),
        "REDUCE_MIN": Kind(89, "x,N>x", shapes.reduce, 27, _KEEP),
        "FLOOR_DIV": Kind(90, "x,x>x", shapes.elementwise, 65),
        "REDUCE_ANY": Kind(91, "B,N>B", shapes.reduce, 27, _KEEP),
        "SQUARE": Kind(92, "x>x", shapes.same, 66),
        "FILL": Kind(94, "I,a>a", shapes.fill, 68),
        "FLOOR_MOD": Kind(95, "x,x>x", shapes.elementwise, 72),
        "RESIZE_NEAREST_NEIGHBOR": Kind(97, "x,N>x", shapes.resize, 74, "align_corners:0? half_pixel_centers:1?"),
        "LEAKY_RELU": Kind(98, "x>x", shapes.same, 75, "alpha:0f"),
        "SQUARED_DIFFERENCE": Kind(99, "x,x>x", shapes.elementwise, 76),
        "MIRROR_PAD": Kind(100, "a,I>a", shapes.mirror_pad, 77, "mode:0b"),
        "ABS": Kind(101, "x>x", shapes.same, 78),
        "SPLIT_V": Kind(102, "a,I,N>a+", shapes.split_v, 79, "num_splits:0i"),
        "CEIL": Kind(104, "x>x", shapes.same),
        "REVERSE_V2": Kind(105, "a,N>a", shapes.reverse, 81),
        "GATHER_ND": Kind(107, "a,J>a", shapes.gather_nd, 83),
        "COS": Kind(108, "x>x", shapes.same, 84),
        "ELU": Kind(111, "x>x", shapes.same),
        "QUANTIZE": Kind(114, "*>*", shapes.same, 89),
        "ROUND": Kind(116, "x>x", shapes.same),
        "HARD_SWISH": Kind(117, "x>x", shapes.same, 91),
        "SELECT_V2": Kind(123, "B,a,a>a", shapes.elementwise, 98),
        "BATCH_MATMUL": Kind(126, "x,x>x", products.matrices, 101, "adj_x:0? adj_y:1? asymmetric_quantize_inputs:2?"),
        "CUMSUM": Kind(128, "x,N>x", shapes.cumulate, 102, "exclusive:0? reverse:1?"),
        "BROADCAST_TO": Kind(130, "a,I>a", shapes.broadcast_to, 104),
        "RFFT2D": Kind(131, "F,N>C", shapes.spectrum, 105),
        "CONV_3D": Kind(
            132,
            "x,b,*>x",
            products.convolution_3d,
            106,
            "padding:0b stride_d:1i stride_w:2i stride_h:3i fused_activation_function:4b "
            "dilation_d_factor:5i=1 dilation_w_factor:6i=1 dilation_h_factor:7i=1",
        ),
        "IMAG": Kind(133, "C>F", shapes.same),
        "REAL": Kind(134, "C>F", shapes.same),
        "COMPLEX_ABS": Kind(135, "C>F", shapes.same),
        "REDUCE_ALL": Kind(140, "B,N>B", shapes.reduce, 27, _KEEP),
        "GELU": Kind(150, "x>x", shapes.same, 116, "approximate:0?"),
        "DYNAMIC_UPDATE_SLICE": Kind(151, "a,a,I>a", shapes.update_slice, 117),
        "RELU_0_TO_1": Kind(152, "x>x", shapes.same),
        "ATAN2": Kind(156, "x,x>x", shapes.aligned, 122),
        "SIGN": Kind(158, "x>x", shapes.same, 123),
        "BITWISE_XOR": Kind(160, "x,x>x", shapes.elementwise, 125),
        "RIGHT_SHIFT": Kind(161, "x,x>x", shapes.elementwise, 126),
        "WHILE": Kind(119, "*+>*+", shapes.carried, 93, "cond_subgraph_index:0i body_subgraph_index:1i"),
        "STABLEHLO_SCATTER": Kind(
            190,
            "a,I,a>a",
            products.scatter,
            7,
            "indices_are_sorted:0? update_window_dims:1[q] inserted_window_dims:2[q] scatter_dims_to_operand_dims:3[q] "
            "index_vector_dim:4q unique_indices:5? update_computation_subgraph_index:6i",
            second=True,
        ),
        "STABLEHLO_REDUCE_WINDOW": Kind(
            198,
            "x,x>x",
            products.windows,
            13,
            "window_dimensions:0[q] window_strides:1[q] base_dilations:2[q] window_dilations:3[q] padding:4[q] "
            "body_subgraph_index:5i",
            second=True,
        ),
    }
)
