"""Schemes for OpenVINO: what is int8 in the file is int8 when it runs, near float, the same each time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec
import numpy as np
import onnx
import pytest

from edgefuse.bundle.manifest import Tolerance
from edgefuse.bundle.scheme import GRAMMAR, Scheme
from edgefuse.errors import QuantizeError
from edgefuse.export.openvino.target import OpenvinoTarget
from edgefuse.export.target import Lowered
from edgefuse.quantize.openvino.quantizer import NNCF, STATIC, STATIC_PERCENTILE, STATIC_U8, OpenvinoQuantizer
from edgefuse.quantize.schemes import FP16
from edgefuse.runtime.backends.backend import SessionOptions
from edgefuse.runtime.backends.openvino.backend import OpenvinoBackend
from edgefuse.stages.agreement import verify
from edgefuse.stages.examples import example_feeds
from edgefuse.stages.stage import Feeds, FeedSource, TorchStage

QUANTIZER = OpenvinoQuantizer()
INT8 = [STATIC, STATIC_U8, STATIC_PERCENTILE, NNCF]
SCHEMES = [*INT8, FP16]
STAGES = ["cnn", "tokens", "layer"]


@pytest.fixture(scope="module")
def stages(cnn_stage: TorchStage, tokens_stage: TorchStage, layer_stage: TorchStage) -> Mapping[str, TorchStage]:
    return {"cnn": cnn_stage, "tokens": tokens_stage, "layer": layer_stage}


@pytest.fixture(scope="module")
def files(stages: Mapping[str, TorchStage]) -> Mapping[str, Lowered]:
    return {name: OpenvinoTarget().lower(stage) for name, stage in stages.items()}


def feeds_of(stage: TorchStage, seed: int = 5) -> FeedSource:
    """Return calibration feeds of various lengths."""

    def start() -> Iterator[Feeds]:
        return example_feeds(stage, count=8, seed=seed)

    return start


def kinds(file: Lowered) -> list[str]:
    return [node.op_type for node in onnx.load_from_string(file.data).graph.node]


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.id)
@pytest.mark.parametrize("name", STAGES)
def test_a_file_answers_like_torch_at_every_length(
    name: str, scheme: Scheme, stages: Mapping[str, TorchStage], files: Mapping[str, Lowered]
) -> None:
    made = QUANTIZER.apply(files[name], scheme, feeds_of(stages[name]))
    assert (made.inputs, made.outputs, made.plan) == (files[name].inputs, files[name].outputs, None)
    session = OpenvinoBackend().open(made.data, made.inputs, made.outputs, SessionOptions())
    wanted_db = 60.0 if scheme == FP16 else 25.0
    for feeds in example_feeds(stages[name], count=4, seed=9):
        found = verify(stages[name], session, feeds, Tolerance(min_snr_db=wanted_db))
        assert found.ok, found.reason


@pytest.mark.parametrize("scheme", INT8, ids=lambda scheme: scheme.id)
@pytest.mark.parametrize("name", STAGES)
def test_every_layer_that_is_named_runs_in_int8(
    name: str, scheme: Scheme, stages: Mapping[str, TorchStage], files: Mapping[str, Lowered]
) -> None:
    made = QUANTIZER.apply(files[name], scheme, feeds_of(stages[name]))
    feeds = next(example_feeds(stages[name]))
    operators = OpenvinoBackend().operators(made.data, made.inputs, made.outputs, feeds, SessionOptions())
    assert not [operator for operator in operators if operator.elsewhere]
    weights = [tensor for tensor in onnx.load_from_string(made.data).graph.initializer if tensor.data_type == 3]
    layers = QUANTIZER.layers(files[name], scheme)
    tables = 1 if name == "tokens" else 0
    assert len([weight for weight in weights if len(weight.dims) > 1]) == len(layers) + tables


@pytest.mark.parametrize("scheme", INT8, ids=lambda scheme: scheme.id)
def test_norms_softmax_and_sums_of_transformers_stay_float(
    scheme: Scheme, stages: Mapping[str, TorchStage], files: Mapping[str, Lowered]
) -> None:
    graph = onnx.load_from_string(QUANTIZER.apply(files["layer"], scheme, feeds_of(stages["layer"])).data).graph
    makers = {output: node.op_type for node in graph.node for output in node.output}
    for node in graph.node:
        if node.op_type in ("LayerNormalization", "Softmax"):
            assert makers.get(node.input[0]) != "DequantizeLinear", node.name
    activations = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    assert len(activations) == 4  # before qkv, out, and the two feed-forward layers


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.id)
def test_the_same_input_gives_the_same_bytes(
    scheme: Scheme, stages: Mapping[str, TorchStage], files: Mapping[str, Lowered]
) -> None:
    first, second = (QUANTIZER.apply(files["tokens"], scheme, feeds_of(stages["tokens"])) for _ in range(2))
    assert first.data == second.data


@pytest.mark.parametrize("scheme", INT8, ids=lambda scheme: scheme.id)
def test_an_excluded_layer_stays_float(
    scheme: Scheme, stages: Mapping[str, TorchStage], files: Mapping[str, Lowered]
) -> None:
    name = next(layer for layer in QUANTIZER.layers(files["cnn"], scheme) if layer.startswith("widen"))
    without = msgspec.structs.replace(scheme, exclude=(name,))
    assert name not in QUANTIZER.layers(files["cnn"], without)
    graph = onnx.load_from_string(QUANTIZER.apply(files["cnn"], without, feeds_of(stages["cnn"])).data).graph
    makers = {output: node.op_type for node in graph.node for output in node.output}
    (node,) = (node for node in graph.node if node.name == name)
    assert makers.get(node.input[1]) != "DequantizeLinear"


def test_zero_is_in_the_middle_of_a_range_with_negative_numbers(
    stages: Mapping[str, TorchStage], files: Mapping[str, Lowered]
) -> None:
    graph = onnx.load_from_string(QUANTIZER.apply(files["layer"], STATIC, feeds_of(stages["layer"])).data).graph
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    zeros = {int(constants[node.input[2]]) for node in graph.node if node.op_type == "QuantizeLinear"}
    assert zeros == {0, -128}  # -128: what a Relu gives
    assert all(constants[node.input[2]].dtype == np.int8 for node in graph.node if node.op_type == "QuantizeLinear")


def test_half_of_the_weights_are_left_in_float16(
    stages: Mapping[str, TorchStage], files: Mapping[str, Lowered]
) -> None:
    assert len(QUANTIZER.apply(files["cnn"], FP16, feeds_of(stages["cnn"])).data) < 0.7 * len(files["cnn"].data)


@pytest.mark.parametrize(
    "scheme",
    [
        Scheme(name="dynamic_wi8_af32"),
        Scheme(name="static_wi8_ai8"),
        msgspec.structs.replace(STATIC, corrected=True),
        msgspec.structs.replace(NNCF, activation="u8"),
    ],
    ids=lambda scheme: scheme.id,
)
def test_a_scheme_that_openvino_does_not_have_is_refused(scheme: Scheme, files: Mapping[str, Lowered]) -> None:
    with pytest.raises(QuantizeError) as caught:
        QUANTIZER.apply(files["cnn"], scheme, lambda: iter(()))
    assert str(caught.value) == (
        f"'{scheme.id}' is not a scheme for OpenVINO: expected fp16, nncf_wi8_ai8, or static_wi8_ai8 with activation "
        "s8 or u8. Fix: ranges found per run are slower there than float, and biases are corrected by nncf_wi8_ai8."
    )


@pytest.mark.parametrize("scheme", [STATIC, NNCF], ids=lambda scheme: scheme.id)
def test_what_cannot_be_done_is_said(
    scheme: Scheme, stages: Mapping[str, TorchStage], files: Mapping[str, Lowered]
) -> None:
    everything = msgspec.structs.replace(scheme, exclude=("*",))
    with pytest.raises(QuantizeError, match="finds nothing to quantize in this stage: expected at least a convolution"):
        QUANTIZER.apply(files["cnn"], everything, feeds_of(stages["cnn"]))
    with pytest.raises(QuantizeError, match="calibration got no samples"):
        QUANTIZER.apply(files["cnn"], scheme, lambda: iter(()))
    broken = {"x_values": np.full((1, 3, 32, 32), np.nan, np.float32)}
    with pytest.raises(QuantizeError, match=r"NaN|not finite|infinity"):
        QUANTIZER.apply(files["cnn"], scheme, lambda: iter((broken,)))


def test_schemes_are_named_apart_and_frontends_get_none(cnn_stage: TorchStage) -> None:
    known = [scheme.id for scheme in QUANTIZER.known()]
    assert len(set(known)) == len(known)
    assert all(GRAMMAR.fullmatch(name) for name in known)
    spec = cnn_stage.spec
    assert set(QUANTIZER.schemes(spec)) <= set(QUANTIZER.known())
    assert QUANTIZER.schemes(spec)[0] == STATIC
    assert QUANTIZER.schemes(msgspec.structs.replace(spec, role="frontend")) == ()
