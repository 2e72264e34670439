from __future__ import annotations

import onnx
import pytest
import torch
from torch import Tensor, nn

from edgefuse.bundle import spec
from edgefuse.bundle.manifest import Tolerance
from edgefuse.errors import ExportError
from edgefuse.export.onnx.target import OnnxTarget
from edgefuse.export.target import Lowered
from edgefuse.registry import create
from edgefuse.runtime.backends.backend import Session, SessionOptions
from edgefuse.stages.agreement import verify
from edgefuse.stages.examples import example_feeds
from edgefuse.stages.explicit import split
from edgefuse.stages.stage import TorchStage


def opened(lowered: Lowered) -> Session:
    session: Session = create("backends", "onnx").open(lowered.data, lowered.inputs, lowered.outputs, SessionOptions())
    return session


def one_stage(module: nn.Module, shape: tuple[spec.Dim, ...], width: int) -> TorchStage:
    module.spec = spec.ModelSpec(  # type: ignore[assignment]
        name="m",
        modalities=(spec.tensor("x", shape=shape),),
        outputs=(spec.EmbeddingOutput(size=width),),
    )
    return split(module.eval())[0]


@pytest.fixture(scope="module")
def lowered(stages: tuple[TorchStage, ...]) -> dict[str, Lowered]:
    return {stage.spec.name: OnnxTarget().lower(stage) for stage in stages}


def test_every_stage_answers_like_torch_at_every_size(
    stages: tuple[TorchStage, ...], lowered: dict[str, Lowered]
) -> None:
    for stage in stages:
        session = opened(lowered[stage.spec.name])
        for feeds in example_feeds(stage, count=4, seed=7):
            agreement = verify(stage, session, feeds, Tolerance())
            assert agreement.ok, (stage.spec.name, agreement.reason)


def test_ports_keep_their_names(lowered: dict[str, Lowered]) -> None:
    words = lowered["words_encoder"]
    assert [(b.port, b.tensor, b.dtype, b.shape) for b in words.inputs] == [
        ("ids", "ids", "int32", (1, -1)),
        ("length", "length", "int32", (1,)),
    ]
    camera = lowered["camera_encoder"]
    assert [b.tensor for b in camera.inputs] == ["feature"]
    assert [(b.port, b.tensor) for b in camera.outputs] == [("feature", "feature_out")]


def test_batch_norm_is_folded_and_nodes_are_named_after_modules(lowered: dict[str, Lowered]) -> None:
    graph = onnx.load_from_string(lowered["camera_encoder"].data).graph
    assert [node.op_type for node in graph.node] == ["Conv", "Clip", "Conv", "GlobalAveragePool", "Flatten"]
    assert [node.name for node in graph.node][1:] == ["body.2/Clip", "body.3/Conv", "GlobalAveragePool", "Flatten"]


def test_files_hold_no_metadata_and_no_path(lowered: dict[str, Lowered]) -> None:
    for name, file in lowered.items():
        proto = onnx.load_from_string(file.data)
        assert not proto.metadata_props
        assert not proto.graph.metadata_props
        assert not any(node.metadata_props or node.doc_string for node in proto.graph.node)
        assert b".py" not in file.data
        assert proto.graph.name == name
        assert [entry.version for entry in proto.opset_import] == [20]


def test_the_same_stage_gives_the_same_bytes(stages: tuple[TorchStage, ...], lowered: dict[str, Lowered]) -> None:
    for stage in stages[1:3]:
        assert OnnxTarget().lower(stage).data == lowered[stage.spec.name].data


class Unknown(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Bessel()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.inner(x)
        return y


class Bessel(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = torch.special.i0(x)
        return y


def test_unsupported_operators_are_named() -> None:
    stage = one_stage(Unknown(), (1, 3), 3)
    named = r"aten\.i0\.default in 'inner' at 'test_onnx_target\.py:\d+: .*i0\(.*'"
    with pytest.raises(ExportError, match=rf"'model' cannot be lowered to ONNX: got operators .* {named}"):
        OnnxTarget().lower(stage)


class Branches(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.sum() > 0 else x


def test_a_branch_on_values_is_named() -> None:
    with pytest.raises(
        ExportError,
        match=r"trace the stage 'model' at 'test_onnx_target\.py:\d+: return x \* 2 if x\.sum\(\) > 0.*Python branches",
    ):
        OnnxTarget().lower(one_stage(Branches(), (1, 3), 3))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(x + x.flip(1))
        return y[:, 0]


def test_the_sum_before_a_layer_norm_is_not_fused() -> None:
    graph = onnx.load_from_string(OnnxTarget().lower(one_stage(Residual(), (1, 6, 4), 4)).data).graph
    assert "Sum" in [node.op_type for node in graph.node]


class LooksUp(nn.Module):
    """Reads and writes at places of int32, as the position and the token of a decoder's step are."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.arange(40.0).reshape(8, 5))

    def forward(self, x: Tensor) -> Tensor:
        rows = x[:, :2].abs().clamp(max=4).to(torch.int32)
        first = torch.arange(len(x), dtype=torch.int32)
        return self.table[rows[:, 0]].index_put((first, rows[:, 1]), x[:, 2])


def test_indices_may_be_int32() -> None:
    stage = one_stage(LooksUp(), (1, 3), 5)
    session = opened(OnnxTarget().lower(stage))
    for feeds in example_feeds(stage, count=3, seed=7):
        assert verify(stage, session, feeds, Tolerance()).ok
