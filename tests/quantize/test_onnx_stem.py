"""Strided convolutions over few channels become dense ones over blocks of pixels, with the same sums."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from edgefuse.bundle.scheme import Scheme
from edgefuse.quantize.onnx.ort.stem import fold_stride_into_channels

Floats = npt.NDArray[np.float32]
STATIC = Scheme(name="static_wi8_ai8", activation="u8")


def model_of(kernel: tuple[int, ...], size: tuple[int, ...], pads: tuple[int, ...], **settings: object) -> ir.Model:
    """Return a convolution of integers, whose sums are exact in any order."""
    weights = np.random.default_rng(0).integers(-9, 9, kernel).astype(np.float32)
    attributes = {"strides": [2, 2], "pads": list(pads), **settings}
    node = onnx.helper.make_node("Conv", ["x", "w"], ["y"], name="stem", **attributes)
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [node],
        "g",
        [info("x", onnx.TensorProto.FLOAT, size)],
        [info("y", onnx.TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    model: ir.Model = ir.from_proto(onnx.shape_inference.infer_shapes(proto, strict_mode=True))
    return model


def answer(model: ir.Model, size: tuple[int, ...]) -> Floats:
    x = np.random.default_rng(1).integers(-9, 9, size).astype(np.float32)
    (y,) = ReferenceEvaluator(ir.to_proto(model)).run(None, {"x": x})
    return np.asarray(y)


@settings(max_examples=60, deadline=None)
@given(
    channels=st.integers(1, 4),
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    half=st.tuples(st.integers(3, 6), st.integers(3, 6)),
    pads=st.tuples(*[st.integers(0, 3)] * 4),
)
def test_the_sums_are_the_same(
    channels: int, kernel: tuple[int, int], half: tuple[int, int], pads: tuple[int, int, int, int]
) -> None:
    size = (1, channels, half[0] * 2, half[1] * 2)
    model = model_of((3, channels, *kernel), size, pads)
    expected = answer(model, size)
    fold_stride_into_channels(model, STATIC)
    np.testing.assert_array_equal(answer(model, size), expected)


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def test_the_usual_stem_is_folded() -> None:
    model = model_of((8, 1, 3, 3), (1, 1, 8, 8), (1, 1, 1, 1))
    fold_stride_into_channels(model, STATIC)
    assert operators(model) == ["SpaceToDepth", "Conv"]
    assert model.graph[1].attributes.get_ints("pads") == (1, 1, 0, 0)


@pytest.mark.parametrize(
    "model",
    [
        model_of((8, 5, 3, 3), (1, 5, 8, 8), (1, 1, 1, 1)),
        model_of((8, 1, 3, 3), (1, 1, 7, 8), (1, 1, 1, 1)),
        model_of((8, 1, 3, 3), (1, 1, 8, 8), (1, 1, 1, 1), strides=[1, 1]),
        model_of((8, 1, 3, 3), (1, 1, 8, 8), (1, 1, 1, 1), dilations=[2, 2]),
        model_of((8, 1, 3, 3), (1, 4, 8, 8), (1, 1, 1, 1), group=4),
    ],
    ids=["many channels", "odd height", "stride 1", "dilated", "depthwise"],
)
def test_other_convolutions_stay(model: ir.Model) -> None:
    fold_stride_into_channels(model, STATIC)
    assert operators(model) == ["Conv"]


def test_an_excluded_convolution_stays() -> None:
    model = model_of((8, 1, 3, 3), (1, 1, 8, 8), (1, 1, 1, 1))
    fold_stride_into_channels(model, Scheme(name="static_wi8_ai8", activation="u8", exclude=("stem",)))
    assert operators(model) == ["Conv"]
