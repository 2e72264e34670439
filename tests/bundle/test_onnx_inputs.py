"""Inputs that an operator of an ONNX file lacks, sizes of zero and axes that there are not: runtimes die on some."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx.defs
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from edgefuse.bundle.onnx import refuse_unsafe_onnx
from edgefuse.bundle.onnx.inputs import MAY_LACK, OWN_MAY_LACK, READ
from edgefuse.bundle.onnx.operators import MICROSOFT, OWN, RULES
from edgefuse.errors import BundleError

_LATER = ("Loop", "SplitToSequence")
"""Operators that `RULES` does not hold."""


def test_what_may_be_left_out_is_what_the_schemas_say() -> None:
    optional: dict[str, set[int]] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "" and schema.name in (*RULES, *_LATER):
            places = {p for p, each in enumerate(schema.inputs) if each.option is type(each.option).Optional}
            optional.setdefault(schema.name, set()).update(places)
    assert {name: set(places) for name, places in MAY_LACK.items()} == {k: v for k, v in optional.items() if v}


def test_what_onnx_runtimes_own_operators_may_lack_is_what_their_schemas_say() -> None:
    from edgefuse.runtime.backends.onnx.api import state

    schemas = {each.name: each for each in state.get_all_operator_schema() if each.domain == MICROSOFT}
    optional = {
        name: {p for p, each in enumerate(schemas[name].inputs) if "Optional" in str(each.option)} for name in OWN
    }
    for name, count in READ.items():
        optional[name] = {place for place in optional[name] if place >= count}
    assert {name: set(places) for name, places in OWN_MAY_LACK.items()} == {k: v for k, v in optional.items() if v}


def file(node: NodeProto, **constants: Any) -> bytes:
    """Return a model of one node, which reads `x` [2, 3, 8] and constants."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 3, 8]) for name in ("x", node.output[0])]
    tensors = [numpy_helper.from_array(np.asarray(each), name) for name, each in constants.items()]
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], initializer=tensors)
    versions = [helper.make_opsetid("", 21), helper.make_opsetid(MICROSOFT, 1)]
    return bytes(helper.make_model(graph, opset_imports=versions).SerializeToString())


def node(kind: str, *inputs: str, own: bool = False, **attributes: Any) -> NodeProto:
    return helper.make_node(kind, inputs, ["y"], domain=MICROSOFT if own else "", **attributes)


_NAN = float("nan")
_CHANCE: tuple[tuple[str, tuple[str, ...], dict[str, Any]], ...] = (
    ("RandomUniform", (), {"high": _NAN, "shape": [2]}),
    ("RandomNormal", (), {"scale": _NAN, "shape": [2]}),
    ("RandomUniformLike", ("x",), {"low": _NAN}),
    ("RandomNormalLike", ("x",), {"scale": _NAN}),
    ("Bernoulli", ("x",), {"seed": _NAN}),
)
_ZEROS = np.zeros((8, 24), np.float32)
_HOSTILE: dict[str, tuple[NodeProto, dict[str, Any], str]] = {
    **{
        kind: (node(kind, "x", ""), {}, f"'{kind}' which lacks its input 1, on inputs of the shapes [2, 3, 8], none")
        for kind in ("Max", "Min", "Mean", "Sum", "Concat", "Add")
    },
    "no bias": (
        node("Attention", "x", "w", own=True, num_heads=2),
        {"w": _ZEROS},
        "'Attention' which lacks its input 2",
    ),
    **{
        kind: (node(kind, *inputs, **bounds), {}, f"'{kind}', which is none that edgefuse knows")
        for kind, inputs, bounds in _CHANCE
    },
    "a vector for a matrix": (
        node("DynamicQuantizeMatMul", "x", "w", "s", own=True),
        {"w": np.zeros(8, np.int8), "s": np.array(0.1, np.float32)},
        "'DynamicQuantizeMatMul' which needs 2 axes",
    ),
    "six scales": (
        node("MatMulIntegerToFloat", "q", "w", "s", "t", own=True),
        {
            **{"q": np.zeros((1, 1), np.uint8), "w": np.zeros((1, 1), np.uint8)},
            **{"s": np.ones((3, 2), np.float32), "t": np.ones((1, 1), np.float32)},
        },
        "'MatMulIntegerToFloat' which has 6 scales in its input 2",
    ),
    "no zero point": (
        node("QLinearLeakyRelu", "q", "s", "z", "s", own=True, alpha=0.1),
        {"q": np.zeros((2, 3), np.uint8), "s": np.array(0.1, np.float32), "z": np.array(0, np.uint8)},
        "'QLinearLeakyRelu' which lacks its input 4",
    ),
    "no depth": (
        node("OneHot", "i", "d", "v"),
        {"i": np.zeros(3, np.int64), "d": np.zeros(0, np.int64), "v": np.zeros(2, np.float32)},
        "'OneHot' which takes nothing at all",
    ),
    "heads of nothing": (
        node("Attention", "x", "x", "x", q_num_heads=2, kv_num_heads=0),
        {},
        "kv_num_heads is [0], where 1 to 2147483647 may",
    ),
    "heads of 2³²": (
        node("Attention", "x", "x", "x", q_num_heads=2, kv_num_heads=2**32),
        {},
        "kv_num_heads is [4294967296], where 1 to 2147483647 may stand",
    ),
    "no shift": (
        node("LayerNormalization", "x", "w", ""),
        {"w": np.ones(8, np.float32)},
        "'LayerNormalization' which names no input last",
    ),
    "an axis of a sum beyond": (node("CumSum", "x", "i"), {"i": np.array(7)}, "'CumSum' which has the axis 7"),
    "an axis of a sum that is made": (node("CumSum", "x", "x"), {}, "'CumSum' which has an axis that only a run says"),
    "slopes that do not fit": (
        node("PRelu", "x", "s"),
        {"s": np.zeros((48, 1), np.float32)},
        "'PRelu' which has slopes that do not fit, on inputs of the shapes [2, 3, 8], [48, 1]",
    ),
    "no steps": (
        node("Slice", "x", "i", "i", "i", ""),
        {"i": np.zeros(1, np.int64)},
        "'Slice' which names no input last, instead of leaving it out",
    ),
    "frames of less than nothing": (
        node("STFT", "x", "k", "", "n"),
        {"k": np.array(4), "n": np.array(-(2**40))},
        "'STFT' which has the sizes [4, -1099511627776]",
    ),
    "a transform of nothing": (node("DFT", "x", "n"), {"n": np.array(0)}, "'DFT' which has the sizes [0]"),
    "more parts than it names": (node("Split", "x", num_outputs=2), {}, "'Split' which makes 2 parts and names 1"),
    "a window beyond": (
        node("QLinearAveragePool", "q", "s", "z", "s", "z", own=True, kernel_shape=[2, 2]),
        {"q": np.zeros((1, 1, 1, 3), np.uint8), "s": np.array(0.1, np.float32), "z": np.array(0, np.uint8)},
        "'QLinearAveragePool' which finds no place for its window",
    ),
    "channels last": (
        node("QLinearAveragePool", "q", "s", "z", "s", "z", own=True, kernel_shape=[2, 2], channels_last=1),
        {"q": np.zeros((1, 1, 4, 3), np.uint8), "s": np.array(0.1, np.float32), "z": np.array(0, np.uint8)},
        "'QLinearAveragePool' which has its channels last",
    ),
    "an empty skip": (
        node("SkipSimplifiedLayerNormalization", "x", "w", "g", own=True),
        {"w": np.zeros((0, 3, 8), np.float32), "g": np.ones(8, np.float32)},
        "which takes nothing at all, on inputs of the shapes [2, 3, 8], [0, 3, 8], [8]",
    ),
    **{
        f"GatherND in batches of {batch_dims}": (
            node("GatherND", "x", "i", batch_dims=batch_dims),
            {"i": np.zeros((2, 2), np.int64)},
            f"'GatherND' which has index vectors of 2 numbers and {batch_dims} axes of batches",
        )
        for batch_dims in (-1, -16, 2)
    },
    "GatherND of nothing": (
        node("GatherND", "x", "i"),
        {"i": np.zeros((2, 0), np.int64)},
        "index vectors of 0 numbers",
    ),
    "GatherND, far": (
        node("GatherND", "x", "i", batch_dims=-(2**40)),
        {"i": np.zeros((2, 2), np.int64)},
        "whose batch_dims",
    ),
    "an axis beyond": (node("Softmax", "x", axis=3), {}, "'Softmax' which has the axis 3"),
    "an axis far beyond": (node("Softmax", "x", axis=-(2**31)), {}, "'Softmax' whose axis is [-2147483648]"),
}


@pytest.mark.parametrize("case", sorted(_HOSTILE))
def test_what_runtimes_die_on_is_refused(case: str) -> None:
    made, constants, said = _HOSTILE[case]
    with pytest.raises(BundleError) as caught:
        refuse_unsafe_onnx("x.onnx", file(made, **constants))
    assert said in str(caught.value)


def test_an_input_of_nothing_is_refused() -> None:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [0, 3]) for name in "xy"]
    graph = helper.make_graph([node("Neg", "x")], "g", ends[:1], ends[1:])
    with pytest.raises(BundleError, match="has an input 'x' of nothing at all"):
        refuse_unsafe_onnx("x.onnx", bytes(helper.make_model(graph).SerializeToString()))


def test_what_may_be_left_out_passes() -> None:
    refuse_unsafe_onnx("x.onnx", file(node("Clip", "x", "", "k"), k=np.array(1, np.float32)))
    refuse_unsafe_onnx("x.onnx", file(node("Softmax", "x", axis=-3)))
    refuse_unsafe_onnx("x.onnx", file(node("GatherND", "x", "i", batch_dims=1), i=np.zeros((2, 2), np.int64)))
