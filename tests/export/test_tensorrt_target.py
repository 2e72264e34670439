"""Stages become graphs that TensorRT takes, by its own table of operators, with a plan to build engines from them."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
import onnx.parser
import onnx_ir as ir
import pytest
import torch
from onnx_ir.passes.common import ShapeInferencePass
from torch import Tensor, nn

from edgefuse.bundle import spec
from edgefuse.bundle.manifest import BuildPlan, Profile, Pruning, PruningStep
from edgefuse.errors import ExportError
from edgefuse.export.costs import costs
from edgefuse.export.onnx.target import OnnxTarget
from edgefuse.export.tensorrt.operators import NEWEST_OPSET, TYPES, refused
from edgefuse.export.tensorrt.target import TensorrtTarget, cast_bytes_first, profiles
from edgefuse.prune.unstructured import SemiStructuredPruner
from edgefuse.stages.explicit import split
from edgefuse.stages.stage import TorchStage

TARGET = TensorrtTarget()


def graph_of(text: str, *, opset: int = 20) -> ir.Model:
    """Return a graph from ONNX text, with the types of all values."""
    parsed = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}]>\n{text}')
    model: ir.Model = ir.from_proto(parsed)
    ShapeInferencePass()(model)
    return model


def lowered_model(stage: TorchStage) -> ir.Model:
    model: ir.Model = ir.from_proto(onnx.load_from_string(TARGET.lower(stage).data))
    return model


@pytest.mark.parametrize("name", ["camera_frontend", "camera_encoder", "words_encoder", "fusion"])
def test_a_stage_is_lowered_to_what_tensorrt_takes(name: str, stage_by_name: dict[str, TorchStage]) -> None:
    stage = stage_by_name[name]
    model = lowered_model(stage)
    ShapeInferencePass()(model)
    assert refused(model) == ()
    assert model.opset_imports[""] <= NEWEST_OPSET
    kinds = {value.dtype for node in model.graph for value in node.outputs}
    assert ir.DataType.UINT8 not in kinds
    assert ir.DataType.FLOAT16 not in kinds


def test_the_same_stage_gives_the_same_bytes(stage_by_name: dict[str, TorchStage]) -> None:
    stage = stage_by_name["camera_encoder"]
    first, second = (TARGET.lower(stage) for _ in range(2))
    assert first == second


def test_costs_are_counted_as_for_onnx(stage_by_name: dict[str, TorchStage]) -> None:
    stage = stage_by_name["camera_encoder"]
    found = costs(TARGET.lower(stage), "tensorrt", stage.spec)
    assert found.mac == costs(OnnxTarget().lower(stage), "onnx", stage.spec).mac


class Counting(nn.Module):
    """Adds up integers, which TensorRT does for floats only, and gathers bits, which it does not at all."""

    spec = spec.ModelSpec(
        name="counting",
        modalities=(spec.tensor("x", shape=(1, 8), dtype="int32"),),
        outputs=(spec.ValuesOutput(labels=tuple("abcdefgh")),),
    )

    def __init__(self) -> None:
        super().__init__()
        self.sums = Sums()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.sums(x)
        return y


class Sums(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (torch.cumsum(x, dim=1, dtype=torch.int32) & 3).to(torch.float32)


def test_an_operator_that_tensorrt_lacks_is_named_with_its_module() -> None:
    stage = split(Counting().eval())[0]
    with pytest.raises(ExportError) as caught:
        TARGET.lower(stage)
    assert str(caught.value) == (
        "the stage 'model' cannot be lowered for TensorRT: got BitwiseAnd (unknown to it) in 'sums'; CumSum (of int32) "
        "in 'sums'. Fix: replace these operators, or move them out of the model."
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("g (float[1,1,8] x) => (float[1,1,7] y) {y = MaxPool<kernel_shape = [2]>(x)}", "over other than 2 or 3 dimen"),
        (
            "g (float[1,1,8,8] x) => (float[1,1,7,7] y, int64[1,1,7,7] i) {y, i = MaxPool<kernel_shape = [2, 2]>(x)}",
            "with indices as an output",
        ),
        (
            "g (float[1,1,8,8] x) => (float[1,1,6,6] y) {y = MaxPool<kernel_shape = [2, 2], dilations = [2, 2]>(x)}",
            "with dilations",
        ),
        ("g (float[2] x) => (double[2] y) {y = Cast<to = 11>(x)}", "Cast (of double)"),
        (
            "g (float[1,2,8] x, float[2] s) => (float[1,2,8] y) "
            "{y, m, v = BatchNormalization<training_mode = 1>(x, s, s, s, s)}",
            "BatchNormalization (in training)",
        ),
        (
            "g (float[1,1,8,8] x) => (float[1,1,7,7] y) {y = LpPool<kernel_shape = [2, 2], p = 3>(x)}",
            "LpPool (of a norm other than L1 and L2)",
        ),
        ("g (float[4] x, float[4] z) => (float[4] y) {y = Mod(x, z)}", "Mod (of floats without fmod)"),
        (
            "g (float[3] x, float[2,3,4] w) => (float[2,4] y) {y = MatMul(x, w)}",
            "MatMul (of a vector by a stack of matrices)",
        ),
        (
            "g (float[1,1,4,4] x) => (float[1,1,N,M] y) <int64[2] s = {7, 9}> "
            '{y = Resize<axes = [2, 3], keep_aspect_ratio_policy = "not_larger">(x, , , s)}',
            "Resize (that keeps the aspect ratio)",
        ),
        (
            "g (float[4] x, int64[2] i, float[2] u) => (float[4] y) "
            '{y = ScatterElements<axis = 0, reduction = "add">(x, i, u)}',
            "ScatterElements (with a reduction)",
        ),
        (
            "g (float[8,4] b, float[1,1,8] s) => (int64[N,3] y) {y = NonMaxSuppression(b, s)}",
            "NonMaxSuppression (unkno",
        ),
        ("g (seq(float[2]) x) => (seq(float[2]) y) {y = Identity(x)}", "Identity (of a sequence or an optional value)"),
        ("g (uint8[2] x) => (uint8[2] y) {y = Identity(x)}", "Identity (of uint8)"),
        ("g (float[2,3] x, int64[1] a) => (float[3] y) {y = ReduceSum<keepdims = 0>(x, a)}", "axes that are computed"),
        (
            "g (float[4] x) => (int8[4] y) <float s = {0.1}, int8 z = {3}> {y = QuantizeLinear(x, s, z)}",
            "QuantizeLinear (with a zero point that is not 0)",
        ),
        (
            "g (float[4] x) => (uint8[4] y) <float s = {0.1}, uint8 z = {0}> {y = QuantizeLinear(x, s, z)}",
            "QuantizeLinear (to other than int8)",
        ),
        ("g (float[4] x) => (uint8[4] y) <float s = {0.1}> {y = QuantizeLinear(x, s)}", "QuantizeLinear (to uint8)"),
        (
            "g (float[4] x) => (int8[4] y) <float s = {0.0}, int8 z = {0}> {y = QuantizeLinear(x, s, z)}",
            "QuantizeLinear (with a scale that is not positive)",
        ),
        (
            "g (int32[4] x) => (float[4] y) <float s = {0.1}> {y = DequantizeLinear(x, s)}",
            "DequantizeLinear (of int32)",
        ),
        (
            "g (float[1,1,4,4] x) => (float[1,1,8,8] y) <float[0] roi = {}, float[4] r = {1., 1., 2., 2.}> "
            '{y = Resize<mode = "cubic">(x, roi, r)}',
            "Resize (in a mode other than nearest or linear",
        ),
    ],
)
def test_what_the_table_refuses(text: str, reason: str) -> None:
    found = refused(graph_of(text))
    assert found
    assert reason in found[0]
    assert found[0].endswith("in 'g'")


def test_a_newer_operator_set_than_tensorrt_10_reads_is_refused() -> None:
    model = graph_of("g (float[2] x) => (float[2] y) {y = Relu(x)}", opset=21)
    assert refused(model) == ("operator set 21 (at most 20)",)


def test_the_table_names_operators_of_onnx() -> None:
    known = {schema.name for schema in onnx.defs.get_all_schemas()}
    assert set(TYPES) <= known


# --- uint8 ---


def test_bytes_are_cast_before_they_are_moved() -> None:
    model = graph_of("""g (uint8[1,4,4,1] x) => (float[1,4,4] y) <int64[1] axes = {1}> {
        moved = Transpose<perm = [0, 3, 1, 2]>(x)
        flat = Squeeze(moved, axes)
        y = Cast<to = 1>(flat)
    }""")
    assert refused(model) == ("Squeeze (of uint8) in 'g'", "Transpose (of uint8) in 'g'")
    cast_bytes_first(model)
    assert [node.op_type for node in model.graph][:3] == ["Cast", "Transpose", "Squeeze"]
    ShapeInferencePass()(model)
    assert refused(model) == ()


# --- the plan ---


class NoExamples:
    """What a pruner that looks at weights alone is given."""

    def __len__(self) -> int:
        return 0

    def batch(self, indices: Sequence[int]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        raise AssertionError(indices)


def test_fixed_shapes_need_no_profile(stage_by_name: dict[str, TorchStage]) -> None:
    assert TARGET.lower(stage_by_name["camera_encoder"]).plan == BuildPlan()


def test_a_bounded_dimension_gives_a_profile_up_to_its_bound(stage_by_name: dict[str, TorchStage]) -> None:
    plan = TARGET.lower(stage_by_name["words_encoder"]).plan
    assert plan == BuildPlan(profiles=(Profile(port="ids", minimum=(1, 1), optimum=(1, 12), maximum=(1, 12)),))


class Long(nn.Module):
    """Needs at least five steps."""

    spec = spec.ModelSpec(
        name="long",
        modalities=(spec.tensor("x", shape=(1, spec.Bounded(max=30), 2)),),
        outputs=(spec.ValuesOutput(labels=("a", "b")),),
    )

    def __init__(self) -> None:
        super().__init__()
        self.filter = nn.Conv1d(2, 2, 5)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.filter(x.transpose(1, 2)).mean(dim=2)
        return y


class Picked(Long):
    spec = spec.ModelSpec(
        name="picked",
        modalities=(spec.tensor("x", shape=(1, spec.Bucketed(sizes=(6, 16, 30)), 2)),),
        outputs=(spec.ValuesOutput(labels=("a", "b")),),
    )


def test_a_profile_starts_where_the_stage_runs() -> None:
    profile = profiles(split(Long().eval())[0])[0]
    assert profile == Profile(port="x_values", minimum=(1, 8, 2), optimum=(1, 30, 2), maximum=(1, 30, 2))


def test_buckets_give_a_profile_from_the_first_to_the_last() -> None:
    profile = profiles(split(Picked().eval())[0])[0]
    assert profile == Profile(port="x_values", minimum=(1, 6, 2), optimum=(1, 30, 2), maximum=(1, 30, 2))


def test_two_of_four_zeros_let_the_engine_be_sparse(stage_by_name: dict[str, TorchStage]) -> None:
    stage = stage_by_name["camera_encoder"]
    step = PruningStep(method="semi_structured", ratio=0.5)
    module = SemiStructuredPruner().prune(stage, step, NoExamples())
    pruned = TorchStage(stage.spec, module, Pruning(steps=(step,)))
    assert TARGET.lower(pruned).plan == BuildPlan(sparse_weights=True)
    dense = TorchStage(stage.spec, stage.module, Pruning(steps=(step,)))  # says so, and is not
    assert TARGET.lower(dense).plan == BuildPlan()


def test_the_interface_is_that_of_the_onnx_file(stage_by_name: dict[str, TorchStage]) -> None:
    stage = stage_by_name["words_encoder"]
    ours, theirs = TARGET.lower(stage), OnnxTarget().lower(stage)
    assert (ours.inputs, ours.outputs, ours.opset) == (theirs.inputs, theirs.outputs, theirs.opset)


def test_versions_name_the_tools_that_decide_the_bytes() -> None:
    assert {"torch", "onnx", "onnxscript"} <= TARGET.versions().keys()
