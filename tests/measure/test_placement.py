"""The share of operators that runs where it was asked to, on files made for it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edgefuse.bundle.manifest import Binding, Manifest
from edgefuse.bundle.reader import open_bundle
from edgefuse.bundle.writer import write_bundle
from edgefuse.errors import BackendError, CheckError
from edgefuse.measure import placement
from edgefuse.measure.placement import Placement
from edgefuse.runtime.backends.backend import Operator, SessionOptions
from edgefuse.runtime.backends.onnx import placement as by_onnxruntime
from edgefuse.runtime.backends.tflite import placement as by_litert

BEGIN = """<ir_version: 9, opset_import: ["" : 17]> g (float[1, 16] x) => (float[1, 4] y) {
    xq = QuantizeLinear(x, scale, unsigned)
    xd = DequantizeLinear(xq, scale, unsigned)
    wd = DequantizeLinear(w, scale, signed)"""
PRODUCT = """
    m = MatMul(xd, wd)
    mq = QuantizeLinear(m, scale, unsigned)
    md = DequantizeLinear(mq, scale, unsigned)"""
WEIGHT_ONLY = """
    m = MatMul(x, wd)
    md = Identity(m)"""


def operators(body: str) -> tuple[Operator, ...]:
    """Return what ONNX Runtime makes of a graph in which `x` [1, 16] and weights [16, 4] are quantized."""
    import onnx.numpy_helper
    import onnx.parser

    model = onnx.parser.parse_model(f"{BEGIN}{body}\n}}")
    weights = np.random.default_rng(0).integers(-127, 128, (16, 4)).astype(np.int8)
    constants = {"w": weights, "scale": np.float32(0.05), "unsigned": np.uint8(128), "signed": np.int8(0)}
    constants |= {"ones": np.ones(4, np.float32)}
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()
    )
    return by_onnxruntime.operators(
        model.SerializeToString(),
        (Binding(port="x", tensor="x", dtype="float32", shape=(1, 16)),),
        (Binding(port="y", tensor="y", dtype="float32", shape=(1, 4)),),
        {"x": np.ones((1, 16), np.float32)},
        SessionOptions(),
    )


def test_a_product_that_onnxruntime_fuses_runs_where_asked() -> None:
    found = operators(PRODUCT + "\ny = Identity(md)")
    assert not [operator for operator in found if operator.elsewhere]
    assert sum(operator.macs for operator in found) == 64


def test_weights_that_are_dequantized_for_a_float_kernel_are_elsewhere() -> None:
    found = placement.summary("s", "c", operators(WEIGHT_ONLY + "\ny = Identity(md)"))
    assert found.elsewhere == ("1 x MatMul (float after DequantizeLinear)",)
    assert found.mac_share == 0.0
    assert found.share is not None
    assert found.share < 1


def test_an_operator_without_an_int8_kernel_was_never_asked_to_be_int8() -> None:
    found = operators(PRODUCT + "\nn = LayerNormalization(md, ones)\nnq = QuantizeLinear(n, scale, unsigned)\n"
                      "y = DequantizeLinear(nq, scale, unsigned)")  # fmt: skip
    assert "LayerNormalization" in {operator.kind for operator in found}
    assert not [operator for operator in found if operator.elsewhere]


def test_a_bundle_is_measured_file_by_file(tiny_bundle: Path) -> None:
    with open_bundle(tiny_bundle) as bundle:
        found = {one.candidate: one for one in placement.measure(bundle)}
        (fusion,) = placement.measure(bundle, ["fusion.float"])
    assert len(found) == 6
    assert {one.share for one in found.values()} == {1.0}
    assert fusion == found["fusion.float"]
    assert fusion.mac_share == 1.0


def test_a_backend_that_does_not_tell_is_said_not_assumed(
    tmp_path: Path, tiny_manifest: Manifest, tiny_contents: Mapping[str, bytes]
) -> None:
    candidates = tuple(msgspec.structs.replace(each, backend="null") for each in tiny_manifest.candidates)
    silent = msgspec.structs.replace(tiny_manifest, candidates=candidates)
    write_bundle(tmp_path / "silent", silent, tiny_contents)
    with open_bundle(tmp_path / "silent") as bundle:
        found = placement.measure(bundle)
    assert {one.share for one in found} == {None}
    assert placement.spelled(found[0]) == "not told: the backend 'null' does not tell what runs where"
    with pytest.raises(CheckError, match=r"cannot be checked: got the backend 'null' .*Fix: leave out --min-placement"):
        placement.require(found, 0.5)


def test_the_check_names_stage_share_and_operators() -> None:
    good = Placement("fusion", "fusion.float", 30, 1.0, 1.0)
    poor = placement.summary("text", "text.int8", [Operator("Conv", 90, "float"), Operator("Add"), Operator("Mul", 10)])
    assert poor.share == pytest.approx(2 / 3)
    assert poor.mac_share == pytest.approx(0.1)
    placement.require([good], 1.0)
    placement.require([good, poor], 0.6)
    with pytest.raises(CheckError) as raised:
        placement.require([good, poor], 0.95)
    assert str(raised.value) == (
        "the placement of stage 'text' (text.int8) is too low: got 0.667 of 3 operators where asked, not "
        "1 x Conv (float), expected at least 0.95. Fix: leave these operators out of quantization, or take another "
        "scheme or target for this stage."
    )
    with pytest.raises(CheckError, match="no placement was measured"):
        placement.require([], 0.5)
    assert placement.spelled(poor) == "66.7 %, of the MACs 10.0 %"


LOOKUP = (  # as LiteRT lists a graph: x -> EMBEDDING -> FULLY_CONNECTED -> ADD -> SOFTMAX, the middle delegated
    {"index": 0, "op_name": "EMBEDDING_LOOKUP", "inputs": [0, 1], "outputs": [2]},
    {"index": 1, "op_name": "FULLY_CONNECTED", "inputs": [2, 3], "outputs": [4]},
    {"index": 2, "op_name": "ADD", "inputs": [4, 5], "outputs": [6]},
    {"index": 3, "op_name": "SOFTMAX", "inputs": [6], "outputs": [7]},
    {"index": 4, "op_name": "DELEGATE", "inputs": [2, 3, 5], "outputs": [6]},
)


def test_what_lies_between_a_delegates_tensors_is_taken() -> None:
    assert by_litert.taken(LOOKUP) == {1, 2}
    assert by_litert.taken(LOOKUP[:-1]) == set()


def test_multiplications_of_litert_operators() -> None:
    shapes = {2: [4, 16], 3: [8, 16], 4: [4, 8], 5: [8], 6: [4, 8]}
    assert [by_litert.macs(op, shapes) for op in LOOKUP] == [0, 4 * 8 * 16, 0, 0, 0]
    depthwise = {"op_name": "DEPTHWISE_CONV_2D", "inputs": [0, 1, 2], "outputs": [3]}
    assert by_litert.macs(depthwise, {0: [1, 8, 8, 6], 1: [1, 3, 3, 6], 3: [1, 8, 8, 6]}) == 8 * 8 * 6 * 9


def test_a_runtime_that_does_not_list_operators_is_said() -> None:
    with pytest.raises(BackendError, match="this version of the TFLite runtime does not list its operators"):
        by_litert.listed(object())
