from __future__ import annotations

import tracemalloc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from edgefuse.bundle.manifest import Tolerance
from edgefuse.bundle.scheme import Scheme
from edgefuse.bundle.spec import Role, Source, StageInput, StageOutput, StageSpec, TensorSpec
from edgefuse.errors import QuantizeError
from edgefuse.export.onnx.target import OnnxTarget
from edgefuse.export.target import Lowered
from edgefuse.quantize.onnx.ort.int4 import BLOCK, blocks_of_int4
from edgefuse.quantize.onnx.quantizer import DYNAMIC, STATIC_PERCENTILE, STATIC_S8, STATIC_U8, OnnxQuantizer
from edgefuse.quantize.schemes import FP16, INT4, INT4_TABLE
from edgefuse.registry import create
from edgefuse.runtime.backends.backend import SessionOptions
from edgefuse.runtime.backends.onnx.api import onnxruntime
from edgefuse.stages.agreement import verify
from edgefuse.stages.examples import example_feeds
from edgefuse.stages.running import run_torch
from edgefuse.stages.stage import Feeds, FeedSource, TorchStage

ALL = (STATIC_U8, STATIC_S8, STATIC_PERCENTILE, DYNAMIC, FP16)


def calibration(stage: TorchStage, count: int = 8) -> FeedSource:
    return lambda: example_feeds(stage, count=count)


def never() -> Iterator[Feeds]:
    raise AssertionError("only static schemes calibrate")


def snr_db(stage: TorchStage, quantized: Lowered) -> float:
    session = create("backends", "onnx").open(quantized.data, quantized.inputs, quantized.outputs, SessionOptions())
    return min(verify(stage, session, feeds, Tolerance()).snr_db for feeds in example_feeds(stage, count=4, seed=5))


def optimised(lowered: Lowered, folder: Path) -> Counter[str]:
    """Return the operators that ONNX Runtime really runs."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    onnxruntime.InferenceSession(lowered.data, options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(folder / "optimised.onnx").graph.node)


@pytest.mark.parametrize("scheme", ALL, ids=lambda scheme: scheme.id)
def test_a_cnn_keeps_its_interface_and_its_answers(cnn_stage: TorchStage, cnn: Lowered, scheme: Scheme) -> None:
    quantized = OnnxQuantizer().apply(cnn, scheme, calibration(cnn_stage))
    assert (quantized.inputs, quantized.outputs) == (cnn.inputs, cnn.outputs)
    assert len(quantized.data) < len(cnn.data)
    assert snr_db(cnn_stage, quantized) > 25.0


@pytest.mark.parametrize("scheme", ALL, ids=lambda scheme: scheme.id)
def test_a_transformer_of_variable_length_keeps_its_answers(
    tokens_stage: TorchStage, tokens: Lowered, scheme: Scheme
) -> None:
    quantized = OnnxQuantizer().apply(tokens, scheme, calibration(tokens_stage))
    assert (quantized.inputs, quantized.outputs) == (tokens.inputs, tokens.outputs)
    assert snr_db(tokens_stage, quantized) > 25.0
    assert len(tokens.data) > (1.8 if scheme == FP16 else 3.0) * len(quantized.data)


@pytest.mark.parametrize("scheme", ALL[1:], ids=lambda scheme: scheme.id)
def test_the_same_file_and_data_give_the_same_bytes(tokens_stage: TorchStage, tokens: Lowered, scheme: Scheme) -> None:
    first, second = (OnnxQuantizer().apply(tokens, scheme, calibration(tokens_stage)) for _ in range(2))
    assert first.data == second.data


def test_the_runtime_fuses_the_whole_cnn(cnn_stage: TorchStage, cnn: Lowered, tmp_path: Path) -> None:
    operators = optimised(OnnxQuantizer().apply(cnn, STATIC_U8, calibration(cnn_stage)), tmp_path)
    assert operators["QLinearConv"] == 5
    assert operators["QLinearAdd"] == 1
    assert not {"Conv", "Clip", "Relu", "Add", "FusedConv"} & set(operators)
    assert operators["QuantizeLinear"] + operators["DequantizeLinear"] <= 3


def test_linear_layers_become_int8_with_their_bias(tokens_stage: TorchStage, tokens: Lowered, tmp_path: Path) -> None:
    operators = optimised(OnnxQuantizer().apply(tokens, STATIC_U8, calibration(tokens_stage)), tmp_path)
    assert operators["QGemm"] == 3
    assert not {"Gemm", "QLinearAdd", "Relu"} & set(operators)
    assert operators["LayerNormalization"] == 1


def test_a_transformer_layer_is_reshaped_around_attention_only(layer_stage: TorchStage) -> None:
    quantized = OnnxQuantizer().apply(OnnxTarget().lower(layer_stage), STATIC_U8, calibration(layer_stage))
    operators = [node.op_type for node in onnx.load_from_string(quantized.data).graph.node]
    operators = [operator for operator in operators if operator not in ("QuantizeLinear", "DequantizeLinear")]
    layer = ["Add", "LayerNormalization", "Gemm", "Relu", "Gemm", "Add", "Reshape"]
    assert any(operators[start : start + len(layer)] == layer for start in range(len(operators)))
    assert snr_db(layer_stage, quantized) > 25.0


@pytest.mark.parametrize("scheme", ALL, ids=lambda scheme: scheme.id)
def test_a_file_holds_nothing_that_is_not_used(tokens_stage: TorchStage, tokens: Lowered, scheme: Scheme) -> None:
    graph = onnx.load_from_string(OnnxQuantizer().apply(tokens, scheme, calibration(tokens_stage)).data).graph
    used = {name for node in graph.node for name in node.input}
    assert {tensor.name for tensor in graph.initializer} <= used


def test_dynamic_products_take_the_fast_path(tokens: Lowered, tmp_path: Path) -> None:
    operators = optimised(OnnxQuantizer().apply(tokens, DYNAMIC, never), tmp_path)
    assert operators["DynamicQuantizeMatMul"] == 3
    assert not {"MatMulInteger", "DynamicQuantizeLinear"} & set(operators)


def test_embedding_tables_are_int8(tokens: Lowered) -> None:
    graph = onnx.load_from_string(OnnxQuantizer().apply(tokens, DYNAMIC, never).data).graph
    tables = [tensor for tensor in graph.initializer if list(tensor.dims) == [200, 64]]
    assert [tensor.data_type for tensor in tables] == [onnx.TensorProto.INT8]


def test_an_embedding_table_has_a_scale_per_row_and_only_looked_up_rows_become_float(
    tokens: Lowered, tmp_path: Path
) -> None:
    quantized = OnnxQuantizer().apply(tokens, DYNAMIC, never)
    graph = onnx.load_from_string(quantized.data).graph
    assert [list(tensor.dims) for tensor in graph.initializer if 200 in tensor.dims] == [[200, 64], [200, 1]]
    operators = optimised(quantized, tmp_path)
    assert operators["Gather"] >= 2
    rows = onnx.load(tmp_path / "optimised.onnx").graph
    assert [t.data_type for t in rows.initializer if list(t.dims) == [200, 64]] == [onnx.TensorProto.INT8]


def test_int4_runs_in_the_fused_kernels_and_keeps_five_bits_a_weight(
    tokens_stage: TorchStage, tokens: Lowered, tmp_path: Path
) -> None:
    quantized = OnnxQuantizer().apply(tokens, INT4, never)
    operators = optimised(quantized, tmp_path)
    assert (operators["MatMulNBits"], operators["GatherBlockQuantized"]) == (3, 1)
    assert quantized.opset == f"{tokens.opset}, com.microsoft 1"
    assert (quantized.inputs, quantized.outputs) == (tokens.inputs, tokens.outputs)
    assert snr_db(tokens_stage, quantized) > 15.0
    eight_bits = OnnxQuantizer().apply(tokens, DYNAMIC, never)
    assert len(quantized.data) < 0.75 * len(eight_bits.data)
    assert quantized.data == OnnxQuantizer().apply(tokens, INT4, never).data


@pytest.mark.parametrize("scheme", [INT4_TABLE, Scheme(name="static_wi8_ai8", activation="u8", table_bits=4)])
def test_a_table_alone_can_have_four_bits(
    tokens_stage: TorchStage, tokens: Lowered, tmp_path: Path, scheme: Scheme
) -> None:
    quantized = OnnxQuantizer().apply(tokens, scheme, calibration(tokens_stage))
    operators = optimised(quantized, tmp_path)
    assert (operators["MatMulNBits"], operators["GatherBlockQuantized"]) == (0, 1)
    assert snr_db(tokens_stage, quantized) > 15.0
    eight_bits = Scheme(name=scheme.name, activation=scheme.activation)
    assert len(quantized.data) < len(OnnxQuantizer().apply(tokens, eight_bits, calibration(tokens_stage)).data)
    assert scheme.id.endswith(".table4")


def test_four_bits_for_a_table_need_a_table(cnn: Lowered) -> None:
    with pytest.raises(QuantizeError, match=r"'dynamic_wi8_af32\.table4' finds nothing.*an embedding table of a width"):
        OnnxQuantizer().apply(cnn, INT4_TABLE, never)


@given(st.integers(1, 5), st.integers(1, 70), st.integers(0, 99))
def test_int4_blocks_are_wrong_by_a_step_at_most(rows: int, width: int, seed: int) -> None:
    weight = np.random.default_rng(seed).standard_normal((rows, width)).astype(np.float32)
    packed, scale = blocks_of_int4(weight)
    integers = np.stack([packed & 15, packed >> 4], axis=-1).reshape(rows, -1, BLOCK).astype(np.float32) - 8
    back = (integers * scale[:, :, None]).reshape(rows, -1)[:, :width]
    step = np.repeat(np.abs(scale), BLOCK, axis=1)[:, :width]
    # Half a step, but for the number opposite the largest one, which would be 8 and is cut to 7.
    assert (np.abs(back - weight) <= step * 1.001).all()


def mean_error(stage: TorchStage, quantized: Lowered) -> float:
    """Return the largest mean error of an output over the calibration feeds."""
    session = create("backends", "onnx").open(quantized.data, quantized.inputs, quantized.outputs, SessionOptions())
    (port,) = [output.tensor.name for output in stage.spec.outputs]
    errors = [session.run(feeds)[port] - run_torch(stage, feeds)[port] for feeds in calibration(stage)()]
    return float(np.abs(np.mean(errors, axis=0)).max())


def test_corrected_biases_take_the_mean_out_of_the_error(cnn_stage: TorchStage, cnn: Lowered) -> None:
    whole = Scheme(name="static_wi8_ai8", activation="u8", granularity="tensor")
    corrected = Scheme(name="static_wi8_ai8", activation="u8", granularity="tensor", corrected=True)
    before = OnnxQuantizer().apply(cnn, whole, calibration(cnn_stage))
    after = OnnxQuantizer().apply(cnn, corrected, calibration(cnn_stage))
    assert mean_error(cnn_stage, after) < 0.3 * mean_error(cnn_stage, before)
    assert after.data == OnnxQuantizer().apply(cnn, corrected, calibration(cnn_stage)).data


def test_layers_are_named_as_exclusions_know_them(cnn_stage: TorchStage, cnn: Lowered) -> None:
    layers = OnnxQuantizer().layers(cnn, STATIC_U8)
    assert len(layers) == 6
    one = Scheme(name="static_wi8_ai8", activation="u8", exclude=layers[:1])
    assert OnnxQuantizer().layers(cnn, one) == layers[1:]
    assert OnnxQuantizer().layers(cnn, DYNAMIC) == layers[-1:]


def test_weights_that_stay_float_are_stored_in_float16(cnn_stage: TorchStage, cnn: Lowered) -> None:
    layers = OnnxQuantizer().layers(cnn, STATIC_U8)
    feeds = calibration(cnn_stage)
    whole, partly = (
        onnx.load_from_string(OnnxQuantizer().apply(cnn, msgspec.structs.replace(STATIC_U8, exclude=left), feeds).data)
        for left in ((), layers[-2:])
    )
    halves = [
        {tensor.name for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT16}
        for model in (whole, partly)
    ]
    assert halves[0] == set()
    assert halves[1]
    scales = [t for t in partly.graph.initializer if t.name.endswith("/scale")]
    assert {t.data_type for t in scales} == {onnx.TensorProto.FLOAT}


def test_excluded_operators_stay_float(cnn_stage: TorchStage, cnn: Lowered, tmp_path: Path) -> None:
    scheme = Scheme(name="static_wi8_ai8", activation="u8", exclude=("stem*",))
    operators = optimised(OnnxQuantizer().apply(cnn, scheme, calibration(cnn_stage)), tmp_path)
    assert operators["QLinearConv"] == 4
    assert operators["Conv"] + operators["FusedConv"] == 1


def test_calibration_streams(tokens_stage: TorchStage, tokens: Lowered) -> None:
    def peak_bytes(samples: int) -> int:
        tracemalloc.start()
        OnnxQuantizer().apply(tokens, STATIC_PERCENTILE, calibration(tokens_stage, samples))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    peak_bytes(2)
    assert peak_bytes(200) < 1.1 * peak_bytes(10)


def test_calibration_without_samples_is_an_error(cnn: Lowered) -> None:
    with pytest.raises(QuantizeError, match="calibration got no samples"):
        OnnxQuantizer().apply(cnn, STATIC_U8, lambda: iter(()))


def test_calibration_with_nan_is_an_error(cnn: Lowered) -> None:
    broken = {"x_values": np.full((1, 3, 32, 32), np.nan, np.float32)}
    with pytest.raises(QuantizeError, match="not finite in 'x_values/blocks'"):
        OnnxQuantizer().apply(cnn, STATIC_U8, lambda: iter([broken]))


def test_a_sample_that_does_not_fit_is_an_error(cnn: Lowered) -> None:
    with pytest.raises(QuantizeError, match="lacks an input: got other, expected x_values"):
        OnnxQuantizer().apply(cnn, STATIC_U8, lambda: iter([{"other": np.zeros(1)}]))
    with pytest.raises(QuantizeError, match="does not fit the stage"):
        OnnxQuantizer().apply(cnn, STATIC_U8, lambda: iter([{"x_values": np.zeros((2, 2), np.float32)}]))


def test_a_scheme_with_nothing_to_do_is_an_error(cnn_stage: TorchStage, cnn: Lowered) -> None:
    scheme = Scheme(name="static_wi8_ai8", activation="u8", exclude=("*",))
    with pytest.raises(QuantizeError, match="finds nothing to quantize in this stage"):
        OnnxQuantizer().apply(cnn, scheme, calibration(cnn_stage))
    with pytest.raises(QuantizeError, match="sign of its activations: got '', expected 'u8' or 's8'"):
        OnnxQuantizer().apply(cnn, Scheme(name="static_wi8_ai8"), calibration(cnn_stage))
    with pytest.raises(QuantizeError, match="'float' is not a scheme"):
        OnnxQuantizer().apply(cnn, Scheme(name="float"), never)


@pytest.mark.parametrize("scheme", [STATIC_U8, DYNAMIC], ids=lambda scheme: scheme.id)
def test_a_stage_of_fewer_weights_than_int8_gains_by_has_nothing_to_quantize(scheme: Scheme) -> None:
    x, y = TensorSpec(name="x", shape=(1, 64)), TensorSpec(name="y", shape=(1, 63))
    source = Source(kind="modality", owner="m", tensor="x")
    stage = StageSpec(
        name="s", role="encoder", inputs=(StageInput(tensor=x, source=source),), outputs=(StageOutput(tensor=y),)
    )
    lowered = OnnxTarget().lower(TorchStage(stage, nn.Linear(64, 63).eval()))  # 64 * 63 = 4,032
    with pytest.raises(QuantizeError, match=r"finds nothing to quantize in this stage.* 4,096 weights or more"):
        OnnxQuantizer().apply(lowered, scheme, calibration(TorchStage(stage, nn.Identity())))


@pytest.mark.parametrize(("role", "first"), [("encoder", STATIC_U8), ("fusion", DYNAMIC), ("model", STATIC_U8)])
def test_schemes_are_offered_by_role(role: Role, first: Scheme) -> None:
    stage = StageSpec(name="s", role=role, inputs=(), outputs=())
    offered = OnnxQuantizer().schemes(stage)
    assert offered[0] == first
    assert {STATIC_U8, STATIC_S8, DYNAMIC, FP16} <= set(offered)
    assert len(offered) <= 5


def test_every_known_scheme_has_its_own_id_and_those_offered_are_known() -> None:
    known = OnnxQuantizer().known()
    assert len({scheme.id for scheme in known}) == len(known)
    assert set(OnnxQuantizer().schemes(StageSpec(name="s", role="encoder", inputs=(), outputs=()))) <= set(known)
    assert "static_wi8_ai8.u8.tensor.mse.balanced.corrected" in {scheme.id for scheme in known}


def test_a_frontend_gets_no_scheme() -> None:
    stage = StageSpec(name="s", role="frontend", inputs=(), outputs=())
    assert OnnxQuantizer().schemes(stage) == ()
