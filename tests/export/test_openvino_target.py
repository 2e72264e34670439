"""Files for OpenVINO answer like torch in OpenVINO itself, at every size."""

from __future__ import annotations

import onnx
import pytest
import torch
from torch import Tensor, nn

from edgefuse.bundle import spec
from edgefuse.bundle.manifest import Tolerance
from edgefuse.errors import ExportError
from edgefuse.export.openvino.target import OpenvinoTarget
from edgefuse.export.target import Lowered
from edgefuse.models.digits.layers import TransformerBlock
from edgefuse.registry import create
from edgefuse.runtime.backends.backend import SessionOptions
from edgefuse.stages.agreement import verify
from edgefuse.stages.examples import example_feeds
from edgefuse.stages.explicit import split
from edgefuse.stages.stage import TorchStage


def agrees(stage: TorchStage, lowered: Lowered) -> None:
    session = create("backends", "openvino").open(lowered.data, lowered.inputs, lowered.outputs, SessionOptions())
    for feeds in example_feeds(stage, count=4, seed=7):
        agreement = verify(stage, session, feeds, Tolerance())
        assert agreement.ok, (stage.spec.name, agreement.reason)


def one_stage(module: nn.Module, shape: tuple[int, ...], width: int) -> TorchStage:
    module.spec = spec.ModelSpec(  # type: ignore[assignment]
        name="m",
        modalities=(spec.tensor("x", shape=shape),),
        outputs=(spec.EmbeddingOutput(size=width),),
    )
    return split(module.eval())[0]


def kinds(lowered: Lowered) -> list[str]:
    return [node.op_type for node in onnx.load_from_string(lowered.data).graph.node]


def test_every_stage_answers_like_torch_and_gives_the_same_bytes(stages: tuple[TorchStage, ...]) -> None:
    target = OpenvinoTarget()
    for stage in stages:
        lowered = target.lower(stage)
        agrees(stage, lowered)
        assert target.lower(stage).data == lowered.data


def test_means_and_sums_stay_as_torch_wrote_them(stages: tuple[TorchStage, ...]) -> None:
    camera = next(stage for stage in stages if stage.spec.name == "camera_encoder")
    assert kinds(OpenvinoTarget().lower(camera)) == ["Conv", "Clip", "Conv", "ReduceMean"]


class Attention(nn.Module):
    """Attention over values that come by head and leave by step, the form that OpenVINO's Snippets get wrong."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scales = nn.Parameter(torch.randn(3, width))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (x * scale for scale in self.scales)
        steps = x.shape[2]
        mask = torch.triu(torch.full((steps, steps), -100.0), 1)
        weights = torch.softmax(query @ key.transpose(2, 3) + mask, dim=-1)
        y: Tensor = (weights @ value).transpose(1, 2).flatten(1)
        return y


@pytest.mark.parametrize(("heads", "steps"), [(4, 4), (8, 8), (4, 6)])
def test_attention_with_as_many_heads_as_steps_is_right(heads: int, steps: int) -> None:
    torch.manual_seed(0)
    stage = one_stage(Attention(16), (1, heads, steps, 16), heads * steps * 16)
    lowered = OpenvinoTarget().lower(stage)
    agrees(stage, lowered)


class Block(nn.Module):
    """Packed attention, as transformers have it."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.block = TransformerBlock(16 * heads, heads, 32)

    def forward(self, x: Tensor) -> Tensor:
        steps = x.shape[1]
        y: Tensor = self.block(x, torch.triu(torch.full((steps, steps), -100.0), 1)).flatten(1)
        return y


@pytest.mark.parametrize("steps", [4, 5])
def test_packed_attention_is_cut_into_heads_at_once(steps: int) -> None:
    torch.manual_seed(0)
    stage = one_stage(Block(4), (1, steps, 64), steps * 64)
    lowered = OpenvinoTarget().lower(stage)
    agrees(stage, lowered)
    assert "Split" in kinds(lowered)


class Unknown(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = torch.special.i0(x)
        return y


def test_unsupported_operators_are_named() -> None:
    stage = one_stage(Unknown(), (1, 3), 3)
    with pytest.raises(ExportError, match=r"'model' cannot be lowered to ONNX: got operators .* aten\.i0\.default"):
        OpenvinoTarget().lower(stage)


def test_the_tools_are_those_that_make_and_check_the_file() -> None:
    assert set(OpenvinoTarget().versions()) == {"torch", "onnx", "onnxscript", "onnx-ir", "openvino"}
