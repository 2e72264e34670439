"""Precision for TensorRT stands in the graph: int8 between a Q and a DQ, float16 between casts, and nothing implied."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgspec
import numpy as np
import numpy.typing as npt
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
from onnx_ir.passes.common import ShapeInferencePass
from torch import Tensor

from edgefuse.bundle.manifest import BuildPlan, Pruning, PruningStep, Tolerance
from edgefuse.bundle.scheme import Scheme
from edgefuse.errors import QuantizeError
from edgefuse.export.target import Lowered
from edgefuse.export.tensorrt.operators import refused
from edgefuse.export.tensorrt.sparsity import has_two_of_four, is_two_of_four, weights
from edgefuse.export.tensorrt.target import TensorrtTarget
from edgefuse.prune.unstructured import SemiStructuredPruner
from edgefuse.quantize.onnx.float16 import compute_in_float16, survives_in_float16
from edgefuse.quantize.schemes import FP16
from edgefuse.quantize.tensorrt.quantizer import INT8_FP16, INT8_FP16_PERCENTILE, TensorrtQuantizer
from edgefuse.runtime.backends.backend import SessionOptions
from edgefuse.runtime.backends.onnx.backend import OnnxBackend
from edgefuse.stages.agreement import verify
from edgefuse.stages.examples import example_feeds
from edgefuse.stages.stage import Feeds, FeedSource, TorchStage

QUANTIZER = TensorrtQuantizer()
INT8 = Scheme(name="static_wi8_ai8", activation="s8")
INT8_TENSOR = msgspec.structs.replace(INT8_FP16, granularity="tensor")
SCHEMES = [INT8, INT8_FP16, INT8_FP16_PERCENTILE, INT8_TENSOR, FP16]
STAGES = ["cnn", "tokens", "layer"]
TAKE_INT8 = {"Conv", "Gemm", "MatMul", "Add"}


@pytest.fixture(scope="module")
def stages(cnn_stage: TorchStage, tokens_stage: TorchStage, layer_stage: TorchStage) -> Mapping[str, TorchStage]:
    return {"cnn": cnn_stage, "tokens": tokens_stage, "layer": layer_stage}


@pytest.fixture(scope="module")
def files(stages: Mapping[str, TorchStage]) -> Mapping[str, Lowered]:
    return {name: TensorrtTarget().lower(stage) for name, stage in stages.items()}


def feeds_of(stage: TorchStage, seed: int = 5) -> FeedSource:
    def start() -> Iterator[Feeds]:
        return example_feeds(stage, count=8, seed=seed)

    return start


def graph_of(file: Lowered) -> ir.Model:
    model: ir.Model = ir.from_proto(onnx.load_from_string(file.data))
    ShapeInferencePass()(model)
    return model


def nodes(model: ir.Model, kind: str) -> list[ir.Node]:
    return [node for node in model.graph if node.op_type == kind]


def made_by(value: ir.Value | None) -> str:
    producer = value.producer() if value is not None else None
    return producer.op_type if producer is not None else ""


def numbers(value: ir.Value | None) -> npt.NDArray[np.float32]:
    assert value is not None
    assert value.const_value is not None
    return value.const_value.numpy()


@pytest.mark.parametrize(
    ("name", "scheme"),
    [
        pytest.param(
            name,
            scheme,
            id=f"{name}-{scheme.id}",
            marks=[] if name == STAGES[0] or scheme == INT8_FP16 else [pytest.mark.exhaustive],
        )
        for name in STAGES
        for scheme in SCHEMES
    ],
)
def test_the_graph_answers_like_torch_and_tensorrt_takes_it(
    name: str, scheme: Scheme, stages: Mapping[str, TorchStage], files: Mapping[str, Lowered]
) -> None:
    made = QUANTIZER.apply(files[name], scheme, feeds_of(stages[name]))
    assert refused(graph_of(made)) == ()
    assert (made.inputs, made.outputs, made.plan) == (files[name].inputs, files[name].outputs, files[name].plan)
    session = OnnxBackend().open(made.data, made.inputs, made.outputs, SessionOptions())
    wanted_db = 45.0 if scheme == FP16 else 25.0
    for feeds in example_feeds(stages[name], count=3, seed=9):
        found = verify(stages[name], session, feeds, Tolerance(min_snr_db=wanted_db))
        assert found.ok, found.reason


@pytest.mark.parametrize("scheme", [INT8, INT8_FP16], ids=lambda scheme: scheme.id)
@pytest.mark.parametrize("name", STAGES)
def test_int8_never_leaves_a_pair_of_q_and_dq(
    name: str, scheme: Scheme, stages: Mapping[str, TorchStage], files: Mapping[str, Lowered]
) -> None:
    model = graph_of(QUANTIZER.apply(files[name], scheme, feeds_of(stages[name])))
    quantizes, dequantizes = nodes(model, "QuantizeLinear"), nodes(model, "DequantizeLinear")
    assert quantizes
    for node in (*quantizes, *dequantizes):
        assert (numbers(node.inputs[1]) > 0).all()
        zero = node.inputs[2]
        assert zero is not None
        assert zero.dtype == ir.DataType.INT8
        assert not numbers(zero).any()
    for node in quantizes:
        assert numbers(node.inputs[1]).shape == ()  # activations: one scale
        assert {use.node.op_type for use in node.outputs[0].uses()} == {"DequantizeLinear"}
    for node in dequantizes:
        assert {use.node.op_type for use in node.outputs[0].uses()} <= TAKE_INT8
        weight = node.inputs[0]
        assert weight is not None
        assert weight.dtype == ir.DataType.INT8
        if weight.const_value is not None:
            assert np.abs(weight.const_value.numpy().astype(int)).max() <= 127
            user = next(iter(node.outputs[0].uses())).node
            rows_first = user.op_type == "Conv" or user.attributes.get_int("transB", 0) == 1
            assert node.attributes.get_int("axis") == (0 if rows_first else 1)  # of the output channels
    small = [value for node in model.graph for value in node.outputs if value.dtype == ir.DataType.INT8]
    assert all(made_by(value) == "QuantizeLinear" for value in small)


def test_every_layer_takes_int8_and_gives_float(stages: Mapping[str, TorchStage], files: Mapping[str, Lowered]) -> None:
    model = graph_of(QUANTIZER.apply(files["cnn"], INT8, feeds_of(stages["cnn"])))
    layers = [*nodes(model, "Conv"), *nodes(model, "Gemm")]
    assert tuple(node.name for node in layers) == QUANTIZER.layers(files["cnn"], INT8)
    for node in layers:
        assert [made_by(value) for value in node.inputs[:2]] == ["DequantizeLinear"] * 2
        assert all(numbers(bias).dtype == np.float32 for bias in node.inputs[2:])
    (total,) = nodes(model, "Add")
    assert sorted(made_by(value) for value in total.inputs) == ["Conv", "DequantizeLinear"]
    skip = next(value for value in total.inputs if made_by(value) == "DequantizeLinear")
    assert skip is not None
    assert {use.node.op_type for use in skip.uses()} == {"Add", "Conv"}  # one pair for both users of the block's input


def test_sums_and_norms_of_transformers_stay_out_of_int8(
    stages: Mapping[str, TorchStage], files: Mapping[str, Lowered]
) -> None:
    model = graph_of(QUANTIZER.apply(files["layer"], INT8_FP16, feeds_of(stages["layer"])))
    assert len(nodes(model, "QuantizeLinear")) == 4  # qkv, out, and the two feed-forward layers
    for kind in ("Add", "LayerNormalization", "Softmax"):
        found = nodes(model, kind)
        assert found
        for node in found:
            assert "DequantizeLinear" not in [made_by(value) for value in node.inputs]


def test_an_excluded_layer_has_no_q_and_its_skip_none_either(
    stages: Mapping[str, TorchStage], files: Mapping[str, Lowered]
) -> None:
    name = next(layer for layer in QUANTIZER.layers(files["cnn"], INT8) if layer.startswith("narrow"))
    scheme = msgspec.structs.replace(INT8, exclude=(name,))
    model = graph_of(QUANTIZER.apply(files["cnn"], scheme, feeds_of(stages["cnn"])))
    node = next(node for node in model.graph if node.name == name)
    assert made_by(node.inputs[0]) != "DequantizeLinear"
    assert "DequantizeLinear" not in [made_by(value) for value in nodes(model, "Add")[0].inputs]
    assert name not in QUANTIZER.layers(files["cnn"], scheme)


def test_scales_are_float16_numbers_where_the_rest_is_float16(
    stages: Mapping[str, TorchStage], files: Mapping[str, Lowered]
) -> None:
    source = graph_of(files["cnn"])
    made = graph_of(QUANTIZER.apply(files["cnn"], INT8_FP16, feeds_of(stages["cnn"])))
    exact = {node.name: numbers(node.inputs[1]) for node in nodes(source, "Conv")}
    for node in nodes(made, "Conv"):
        dequantize = node.inputs[1].producer() if node.inputs[1] is not None else None
        assert dequantize is not None
        scale = numbers(dequantize.inputs[1])
        assert scale.dtype == np.float16
        wide = scale.astype(np.float32).reshape(-1, 1, 1, 1)
        error = numbers(dequantize.inputs[0]).astype(np.float32) * wide - exact[node.name]
        assert (np.abs(error) <= wide / 2 * 1.0001).all()  # nothing is cut off by a scale that was rounded down


def test_layer_norms_are_fed_by_a_plain_sum(files: Mapping[str, Lowered]) -> None:
    model = graph_of(files["layer"])
    assert [made_by(node.inputs[0]) for node in nodes(model, "LayerNormalization")][1:] == ["Add"]
    assert not nodes(model, "Sum")  # as which ONNX Runtime wants it


# --- float16 ---


def test_norms_and_sums_compute_in_float16_between_float32_ports(
    stages: Mapping[str, TorchStage], files: Mapping[str, Lowered]
) -> None:
    model = graph_of(QUANTIZER.apply(files["layer"], FP16, feeds_of(stages["layer"])))
    assert {value.dtype for value in (*model.graph.inputs, *model.graph.outputs)} == {ir.DataType.FLOAT}
    for kind in ("LayerNormalization", "Add", "MatMul", "Softmax"):
        for node in nodes(model, kind):
            kinds = {value.dtype for value in (*node.inputs, *node.outputs) if value is not None}
            assert kinds == {ir.DataType.FLOAT16}, node.name
    assert len(nodes(model, "Cast")) == 2  # in and out


def test_half_of_the_weights_are_left(stages: Mapping[str, TorchStage], files: Mapping[str, Lowered]) -> None:
    made = QUANTIZER.apply(files["cnn"], FP16, feeds_of(stages["cnn"]))
    assert len(made.data) < 0.7 * len(files["cnn"].data)
    assert not any(v.dtype == ir.DataType.FLOAT and v.const_value.size > 16 for v in _stored(graph_of(made)))  # type: ignore[union-attr]


def _stored(model: ir.Model) -> list[ir.Value]:
    return [value for value in model.graph.initializers.values() if value.const_value is not None]


def text_graph(text: str) -> ir.Model:
    model: ir.Model = ir.from_proto(onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]>\n{text}'))
    return model


def types(model: ir.Model) -> dict[str, str]:
    ShapeInferencePass()(model)
    found = {node.op_type: node.outputs[0].dtype for node in model.graph if node.op_type != "Cast"}
    return {kind: dtype.name for kind, dtype in found.items() if dtype is not None}


def test_a_mask_that_float16_cannot_hold_keeps_its_softmax_in_float32() -> None:
    model = text_graph("""g (float[1,4] x, bool[1,4] m) => (float[1,4] y) <float low = {-3.0e38}> {
        scores = Relu(x)
        masked = Where(m, scores, low)
        weights = Softmax(masked)
        y = Tanh(weights)
    }""")
    assert compute_in_float16(model) == 2
    assert types(model) == {"Relu": "FLOAT16", "Where": "FLOAT", "Softmax": "FLOAT", "Tanh": "FLOAT16"}


def test_counts_and_epsilons_stay_float32() -> None:
    model = text_graph("""g (int32[1] length, float[1,4] x) => (float[1,4] y, float[1] n)
        <float two = {2.0}, float e = {1.0e-12}> {
        count = Cast<to = 1>(length)
        n = Mul(count, two)
        safe = Max(x, e)
        y = Neg(safe)
    }""")
    compute_in_float16(model)
    assert types(model) == {"Mul": "FLOAT", "Max": "FLOAT", "Neg": "FLOAT16"}


@pytest.mark.parametrize(
    ("array", "survives"),
    [
        ([1.0, 0.0], True),
        ([-np.inf], True),
        ([1e-12], False),
        ([-1e9], False),
        ([65504.0], True),
        ([1e-7] * 20 + [1.0], True),  # weights may become 0
        ([1e5] + [1.0] * 20, False),
    ],
)
def test_which_constants_keep_their_meaning(array: list[float], survives: bool) -> None:
    assert survives_in_float16(np.array(array, np.float32)) == survives


# --- what a scheme needs, and what it keeps ---


@pytest.mark.parametrize("scheme", [INT8_FP16, FP16], ids=lambda scheme: scheme.id)
def test_the_same_input_gives_the_same_bytes(
    scheme: Scheme, stages: Mapping[str, TorchStage], files: Mapping[str, Lowered]
) -> None:
    first, second = (QUANTIZER.apply(files["tokens"], scheme, feeds_of(stages["tokens"])) for _ in range(2))
    assert first.data == second.data


def test_a_profile_survives_quantization(stages: Mapping[str, TorchStage], files: Mapping[str, Lowered]) -> None:
    made = QUANTIZER.apply(files["tokens"], INT8_FP16, feeds_of(stages["tokens"]))
    assert made.plan is not None
    assert made.plan.profiles[0].maximum == (1, 16)


class NoExamples:
    """What a pruner that looks at weights alone is given."""

    def __len__(self) -> int:
        return 0

    def batch(self, indices: Sequence[int]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        raise AssertionError(indices)


def test_two_of_four_zeros_survive_quantization(cnn_stage: TorchStage) -> None:
    step = PruningStep(method="semi_structured", ratio=0.5)
    module = SemiStructuredPruner().prune(cnn_stage, step, NoExamples())
    stage = TorchStage(cnn_stage.spec, module, Pruning(steps=(step,)))
    lowered = TensorrtTarget().lower(stage)
    assert lowered.plan == BuildPlan(sparse_weights=True)
    for scheme in (INT8_FP16, FP16):
        made = QUANTIZER.apply(lowered, scheme, feeds_of(stage))
        assert made.plan == BuildPlan(sparse_weights=True)
        model = graph_of(made)
        assert has_two_of_four(model)
        found = weights(model)
        assert len(found) == 6
        assert sum(is_two_of_four(weight, axis) for weight, axis in found) == 4  # not the stem, not the grouped one


@pytest.mark.parametrize("identifier", ["dynamic_wi8_af32", "static_wi8_ai8.u8"])
def test_a_scheme_that_tensorrt_does_not_know_is_refused(identifier: str, files: Mapping[str, Lowered]) -> None:
    name, _, sign = identifier.partition(".")
    scheme = Scheme(name=name, activation=sign)  # type: ignore[arg-type]
    with pytest.raises(QuantizeError) as caught:
        QUANTIZER.apply(files["cnn"], scheme, lambda: iter(()))
    assert str(caught.value) == (
        f"'{identifier}' is not a scheme for TensorRT: expected fp16, or static_wi8_ai8 with activation s8. "
        "Fix: int8 is symmetric there, and needs static ranges."
    )


def test_a_scheme_that_finds_nothing_says_so(files: Mapping[str, Lowered]) -> None:
    everything = msgspec.structs.replace(INT8_FP16, exclude=("*",))
    with pytest.raises(
        QuantizeError, match=r"finds nothing to quantize in this stage: expected at least a convolution"
    ):
        QUANTIZER.apply(files["cnn"], everything, lambda: iter(()))


def test_calibration_needs_samples(files: Mapping[str, Lowered]) -> None:
    with pytest.raises(QuantizeError, match="calibration"):
        QUANTIZER.apply(files["cnn"], INT8_FP16, lambda: iter(()))


def test_schemes_are_named_apart_and_frontends_get_none(cnn_stage: TorchStage) -> None:
    known = [scheme.id for scheme in QUANTIZER.known()]
    assert len(set(known)) == len(known)
    assert {"fp16", "static_wi8_ai8.s8", "static_wi8_ai8.s8.fp16", "static_wi8_ai8.s8.entropy.fp16"} <= set(known)
    spec = cnn_stage.spec
    assert set(QUANTIZER.schemes(spec)) <= set(QUANTIZER.known())
    assert QUANTIZER.schemes(msgspec.structs.replace(spec, role="frontend")) == ()
