"""Quantized LiteRT files of real, tiny stages: what is int8, how close it stays, and what is refused."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from torch import Tensor, nn

from edgefuse.bundle.scheme import Scheme
from edgefuse.bundle.spec import DType, Role, Source, StageInput, StageOutput, StageSpec, TensorSpec
from edgefuse.errors import QuantizeError
from edgefuse.export.target import Lowered
from edgefuse.export.tflite.file import unpack
from edgefuse.export.tflite.target import TfliteTarget
from edgefuse.models.digits.layers import ConvNormAct, InvertedResidual, TransformerBlock
from edgefuse.quantize.calibration.ranges import Range
from edgefuse.quantize.tflite.calibration import observe
from edgefuse.quantize.tflite.quantizer import TfliteQuantizer
from edgefuse.quantize.tflite.selection import TfliteGraph
from edgefuse.runtime.backends.backend import Array, SessionOptions
from edgefuse.runtime.backends.tflite.backend import TfliteBackend
from edgefuse.stages.stage import Feeds, FeedSource, TorchStage

STATIC = Scheme(name="static_wi8_ai8", activation="s8")
DYNAMIC = Scheme(name="dynamic_wi8_af32")
INT4 = Scheme(name="dynamic_wi4_af32")
INT4_TABLE = Scheme(name="dynamic_wi8_af32", table_bits=4)
HALF = Scheme(name="fp16")


def spec(name: str, role: Role, inputs: dict[str, tuple[DType, tuple[int, ...]]]) -> StageSpec:
    return StageSpec(
        name=name,
        role=role,
        inputs=tuple(
            StageInput(
                tensor=TensorSpec(name=port, dtype=dtype, shape=shape),
                source=Source(kind="modality", owner="own", tensor=port),
            )
            for port, (dtype, shape) in inputs.items()
        ),
        outputs=(StageOutput(tensor=TensorSpec(name="feature", shape=(1, 8))),),
    )


class Picture(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(ConvNormAct(1, 16, 3, 2), InvertedResidual(16, 16, 4, 1), ConvNormAct(16, 64, 1))
        self.head = nn.Linear(64, 8)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.body(x).mean(dim=(2, 3)))
        return y


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(40, 64)
        self.block = TransformerBlock(64, 2, 128)
        self.head = nn.Linear(64, 8)

    def forward(self, ids: Tensor, length: Tensor) -> Tensor:
        valid = (torch.arange(6, dtype=torch.int32) < length.unsqueeze(1)).to(torch.float32)
        x = self.block(self.embedding(ids), (1.0 - valid)[:, None, None] * -1e4)
        y: Tensor = self.head((x * valid.unsqueeze(2)).sum(dim=1))
        return y


def picture_feeds(count: int = 12) -> Iterator[Feeds]:
    values = np.random.default_rng(0)
    for index in range(count):
        # Every fourth sample is an absent picture.
        picture = values.standard_normal((1, 1, 16, 16), np.float32)
        yield {"feature": picture * np.float32(index % 4 != 3)}


def word_feeds(count: int = 12) -> Iterator[Feeds]:
    """Yield sentences of different lengths; the files hold six words."""
    values = np.random.default_rng(0)
    for index in range(count):
        length = index % 6 + 1
        ids = values.integers(0, 40, (1, length)).astype(np.int32)
        yield {"ids": ids, "length": np.array([length], np.int32)}


FEEDS: dict[str, FeedSource] = {"picture": picture_feeds, "words": word_feeds}


@pytest.fixture(scope="module")
def floats() -> dict[str, Lowered]:
    torch.manual_seed(0)
    stages = (
        TorchStage(spec("picture", "encoder", {"feature": ("float32", (1, 1, 16, 16))}), Picture().eval()),
        TorchStage(spec("words", "encoder", {"ids": ("int32", (1, 6)), "length": ("int32", (1,))}), Words().eval()),
    )
    return {stage.spec.name: TfliteTarget().lower(stage) for stage in stages}


@pytest.fixture(scope="module")
def quantized(floats: dict[str, Lowered]) -> Callable[[str, Scheme], Lowered]:
    made: dict[tuple[str, str], Lowered] = {}

    def get(name: str, scheme: Scheme) -> Lowered:
        key = name, scheme.id
        if key not in made:
            made[key] = TfliteQuantizer().apply(floats[name], scheme, FEEDS[name])
        return made[key]

    return get


def outputs(file: Lowered, feeds: FeedSource) -> npt.NDArray[np.float64]:
    session = TfliteBackend().open(file.data, file.inputs, file.outputs, SessionOptions())
    return np.concatenate([session.run(feed)["feature"] for feed in feeds()]).astype(np.float64)


def kinds(file: Lowered) -> Counter[str]:
    return Counter(operator.kind for operator in TfliteGraph(file.data).operators)


@pytest.mark.parametrize(
    ("name", "scheme", "least_db"),
    [
        ("picture", STATIC, 25),
        ("picture", DYNAMIC, 25),
        ("picture", HALF, 55),
        ("words", STATIC, 25),
        ("words", DYNAMIC, 25),
        ("words", HALF, 55),
    ],
)
def test_a_quantized_file_stays_close_and_shrinks(
    name: str,
    scheme: Scheme,
    least_db: float,
    floats: dict[str, Lowered],
    quantized: Callable[[str, Scheme], Lowered],
) -> None:
    before, after = floats[name], quantized(name, scheme)
    expected, got = outputs(before, FEEDS[name]), outputs(after, FEEDS[name])
    noise = np.square(got - expected).sum()
    assert 10 * np.log10(np.square(expected).sum() / noise) > least_db
    assert len(after.data) < len(before.data)
    assert (after.inputs, after.outputs) == (before.inputs, before.outputs)


def test_an_image_network_is_int8_between_one_pair_of_borders(quantized: Callable[[str, Scheme], Lowered]) -> None:
    file = quantized("picture", STATIC)
    assert kinds(file)["QUANTIZE"] == 1
    assert kinds(file)["DEQUANTIZE"] == 1
    types = {tensor.name: tensor.type for tensor in unpack(file.data).subgraphs[0].tensors}
    for operator in TfliteGraph(file.data).operators:
        if operator.kind in ("CONV_2D", "DEPTHWISE_CONV_2D", "ADD"):
            assert types[operator.name.encode()] == schema.TensorType.INT8


def test_a_last_layer_of_few_weights_stays_float(quantized: Callable[[str, Scheme], Lowered]) -> None:
    for name in FEEDS:
        for scheme in (STATIC, DYNAMIC):
            tensors = unpack(quantized(name, scheme).data).subgraphs[0].tensors
            (head,) = [tensor for tensor in tensors if tensor.shape is not None and list(tensor.shape) == [8, 64]]
            assert head.type == schema.TensorType.FLOAT32


def test_attention_keeps_sums_softmax_and_masks_in_float(quantized: Callable[[str, Scheme], Lowered]) -> None:
    file = quantized("words", STATIC)
    model = unpack(file.data)
    types = {tensor.name.decode(): tensor.type for tensor in model.subgraphs[0].tensors}
    for operator in TfliteGraph(file.data).operators:
        if operator.kind in ("SOFTMAX", "ADD", "RSQRT", "MUL", "BATCH_MATMUL", "SUB"):
            assert types[operator.name] == schema.TensorType.FLOAT32
    # Between the two layers of the feed-forward network nothing leaves int8.
    assert kinds(file)["QUANTIZE"] == kinds(file)["FULLY_CONNECTED"] - 2  # and the head is too small for int8


def test_every_scale_is_a_positive_number(quantized: Callable[[str, Scheme], Lowered]) -> None:
    for name in FEEDS:
        for tensor in unpack(quantized(name, STATIC).data).subgraphs[0].tensors:
            if tensor.quantization is not None and tensor.quantization.scale is not None:
                assert (tensor.quantization.scale > 0).all()


def test_embedding_tables_are_int8(quantized: Callable[[str, Scheme], Lowered]) -> None:
    for scheme in (STATIC, DYNAMIC):
        model = unpack(quantized("words", scheme).data)
        (table,) = [tensor for tensor in model.subgraphs[0].tensors if list(tensor.shape) == [40, 64]]
        assert table.type == schema.TensorType.INT8


def test_int4_is_for_matrices_and_for_tables_in_blocks(
    floats: dict[str, Lowered], quantized: Callable[[str, Scheme], Lowered]
) -> None:
    file = quantized("words", INT4)
    tensors = unpack(file.data).subgraphs[0].tensors
    narrow = [tensor for tensor in tensors if tensor.type == schema.TensorType.INT4]
    assert len(narrow) == kinds(file)["FULLY_CONNECTED"]  # all but the head, and the table
    (table,) = [tensor for tensor in narrow if list(tensor.shape) == [40, 64]]
    assert table.quantization.details.blockSize == 32
    expected, got = outputs(floats["words"], word_feeds), outputs(file, word_feeds)
    assert 10 * np.log10(np.square(expected).sum() / np.square(got - expected).sum()) > 12
    assert len(file.data) < len(quantized("words", DYNAMIC).data)


@pytest.mark.parametrize("scheme", [INT4_TABLE, Scheme(name="static_wi8_ai8", activation="s8", table_bits=4)])
def test_a_table_alone_can_have_four_bits(
    scheme: Scheme, floats: dict[str, Lowered], quantized: Callable[[str, Scheme], Lowered]
) -> None:
    file = quantized("words", scheme)
    narrow = [t for t in unpack(file.data).subgraphs[0].tensors if t.type == schema.TensorType.INT4]
    assert [list(tensor.shape) for tensor in narrow] == [[40, 64]]
    expected, got = outputs(floats["words"], word_feeds), outputs(file, word_feeds)
    assert 10 * np.log10(np.square(expected).sum() / np.square(got - expected).sum()) > 12


def test_four_bits_for_a_table_need_a_table(floats: dict[str, Lowered]) -> None:
    with pytest.raises(QuantizeError, match=r"'dynamic_wi8_af32\.table4' finds nothing to store in four bits"):
        TfliteQuantizer().apply(floats["picture"], INT4_TABLE, picture_feeds)


@pytest.mark.parametrize("calibrator", ["percentile", "mse", "entropy"])
def test_calibrators_choose_ranges(calibrator: Any, floats: dict[str, Lowered]) -> None:
    scheme = Scheme(name="static_wi8_ai8", activation="s8", calibrator=calibrator)
    file = TfliteQuantizer().apply(floats["picture"], scheme, picture_feeds)
    expected, got = outputs(floats["picture"], picture_feeds), outputs(file, picture_feeds)
    assert 10 * np.log10(np.square(expected).sum() / np.square(got - expected).sum()) > 15


def test_dynamic_leaves_depthwise_convolutions_in_float(quantized: Callable[[str, Scheme], Lowered]) -> None:
    file = quantized("picture", DYNAMIC)
    assert not {"QUANTIZE", "DEQUANTIZE"} & set(kinds(file))
    depthwise = [t for t in unpack(file.data).subgraphs[0].tensors if list(t.shape) == [1, 3, 3, 64]]
    assert [tensor.type for tensor in depthwise] == [schema.TensorType.FLOAT32]


def test_the_same_input_gives_the_same_bytes(
    floats: dict[str, Lowered], quantized: Callable[[str, Scheme], Lowered]
) -> None:
    again = TfliteQuantizer().apply(floats["words"], STATIC, word_feeds)
    assert again.data == quantized("words", STATIC).data


def test_excluded_operators_stay_float(floats: dict[str, Lowered]) -> None:
    first = next(one.name for one in TfliteGraph(floats["picture"].data).operators if one.kind == "CONV_2D")
    scheme = Scheme(name="static_wi8_ai8", activation="s8", exclude=("DEPTHWISE*", first))
    file = TfliteQuantizer().apply(floats["picture"], scheme, picture_feeds)
    types = {tensor.name.decode(): tensor.type for tensor in unpack(file.data).subgraphs[0].tensors}
    for operator in TfliteGraph(file.data).operators:
        if operator.kind == "DEPTHWISE_CONV_2D" or operator.name == first:
            assert types[operator.name] == schema.TensorType.FLOAT32


class Step(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 8)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        state = torch.tanh(self.first(x))
        return self.head(torch.relu(self.second(state))), state


def test_a_result_that_is_quantized_inside_is_still_given_in_float() -> None:
    """As a decoder's next state, which the logits are computed from."""
    torch.manual_seed(0)
    state = StageOutput(tensor=TensorSpec(name="state", shape=(1, 64)))
    one = spec("step", "encoder", {"x": ("float32", (1, 64))})
    stage = TorchStage(spec=msgspec.structs.replace(one, outputs=(*one.outputs, state)), module=Step().eval())
    file = TfliteTarget().lower(stage)
    feeds = [{"x": np.random.default_rng(seed).standard_normal((1, 64)).astype(np.float32)} for seed in range(8)]
    small = TfliteQuantizer().apply(file, STATIC, lambda: iter(feeds))
    assert kinds(small)["QUANTIZE"] == 2
    wanted, found = (
        TfliteBackend().open(each.data, each.inputs, each.outputs, SessionOptions()).run(feeds[0])
        for each in (file, small)
    )
    for name in ("feature", "state"):
        assert found[name].dtype == np.float32
        given, right = found[name].astype(np.float64), wanted[name].astype(np.float64)
        np.testing.assert_allclose(given, right, rtol=0, atol=0.1)


def test_calibration_finds_the_extremes_of_all_samples(floats: dict[str, Lowered]) -> None:
    file = floats["picture"]
    one = np.ones((1, 1, 16, 16), np.float32)
    graph = TfliteGraph(file.data)
    source = graph.operators[0].inputs[0]

    def feeds() -> Iterator[Feeds]:
        for scale in (1, -7, 0, 3):
            yield {"feature": one * np.float32(scale)}

    (seen,) = observe(file.data, file.inputs, {source: "feature"}, feeds)
    assert (seen.name, seen.extremes()) == ("feature", Range(-7.0, 3.0))


def test_calibration_holds_one_sample_at_a_time(floats: dict[str, Lowered]) -> None:
    alive: list[weakref.ref[Array]] = []

    def feeds() -> Iterator[Feeds]:
        for sample in picture_feeds(20):
            array = np.array(sample["feature"])
            assert sum(reference() is not None for reference in alive) <= 2
            alive.append(weakref.ref(array))
            yield {"feature": array}

    TfliteQuantizer().apply(floats["picture"], STATIC, feeds)
    assert len(alive) == 20


def test_dynamic_schemes_do_not_calibrate(floats: dict[str, Lowered]) -> None:
    def feeds() -> Iterator[Feeds]:
        raise AssertionError("calibration started")

    TfliteQuantizer().apply(floats["words"], DYNAMIC, feeds)


def test_nothing_to_calibrate_on_is_refused(floats: dict[str, Lowered]) -> None:
    with pytest.raises(QuantizeError, match=r"calibration got no samples.*Fix: "):
        TfliteQuantizer().apply(floats["picture"], STATIC, lambda: iter(()))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_feeds_that_are_not_finite_are_refused(value: float, floats: dict[str, Lowered]) -> None:
    feed: Feeds = {"feature": np.full((1, 1, 16, 16), value, np.float32)}
    with pytest.raises(QuantizeError, match="feed of the input 'feature' is not finite"):
        TfliteQuantizer().apply(floats["picture"], STATIC, lambda: iter([feed]))


def test_activations_that_overflow_are_refused() -> None:
    linear = nn.Linear(512, 8)
    linear.weight.data.fill_(3.0)
    stage = TorchStage(spec("plain", "encoder", {"x": ("float32", (1, 512))}), linear)
    feed: Feeds = {"x": np.full((1, 512), 3e38, np.float32)}
    with pytest.raises(QuantizeError, match="numbers that are not finite in 'feature'"):
        TfliteQuantizer().apply(TfliteTarget().lower(stage), STATIC, lambda: iter([feed]))


@pytest.mark.parametrize(
    ("scheme", "sentence"),
    [
        (Scheme(name="static_wi8_ai8", activation="u8"), "no fast kernels for unsigned activations"),
        (Scheme(name="static_wi8_ai8", activation="s8", corrected=True), "corrects no biases in TFLite files"),
        (Scheme(name="float"), "'float' quantizes nothing"),
        (Scheme(name="dynamic_wi8_af32", exclude=("*",)), "finds nothing to quantize"),
    ],
)
def test_schemes_that_cannot_be_applied_are_refused(scheme: Scheme, sentence: str, floats: dict[str, Lowered]) -> None:
    with pytest.raises(QuantizeError, match=sentence):
        TfliteQuantizer().apply(floats["words"], scheme, word_feeds)


@pytest.mark.parametrize("scheme", [STATIC, DYNAMIC], ids=lambda scheme: scheme.id)
def test_a_stage_of_fewer_weights_than_int8_gains_by_has_nothing_to_quantize(scheme: Scheme) -> None:
    stage = TorchStage(spec("plain", "encoder", {"x": ("float32", (1, 500))}), nn.Linear(500, 8).eval())
    feed: Feeds = {"x": np.zeros((1, 500), np.float32)}
    with pytest.raises(QuantizeError, match=r"finds nothing to quantize in this stage.* 4,096 weights or more"):
        TfliteQuantizer().apply(TfliteTarget().lower(stage), scheme, lambda: iter([feed]))


def test_schemes_worth_trying_by_role() -> None:
    schemes = TfliteQuantizer().schemes
    assert schemes(spec("a", "frontend", {})) == ()
    assert schemes(spec("a", "encoder", {})) == (STATIC, DYNAMIC)
    assert schemes(spec("a", "fusion", {})) == (DYNAMIC, STATIC)


def test_versions_name_the_tools_that_decide_the_bytes() -> None:
    assert set(TfliteQuantizer().versions()) == {"ai-edge-quantizer", "ai-edge-litert"}
