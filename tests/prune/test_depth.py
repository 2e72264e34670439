from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgefuse.bundle.manifest import PruningStep
from edgefuse.errors import PruneError
from edgefuse.export.onnx.target import OnnxTarget
from edgefuse.prune.depth import DepthPruner, Skipped, removable_blocks
from edgefuse.stages.stage import TorchStage


def _step(ratio: float) -> PruningStep:
    return PruningStep(method="depth", ratio=ratio)


class Residual(nn.Module):
    def __init__(self, *, closing: nn.Module | None = None) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8))
        self.closing = closing if closing is not None else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.closing(x + self.body(x))
        return y


def _chain(*blocks: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(5, 8), *blocks, nn.Linear(8, 3))


def test_the_residual_blocks_of_the_reference_model_are_found(digits: Mapping[str, TorchStage]) -> None:
    found = {name: removable_blocks(stage) for name, stage in digits.items()}
    assert found == {
        "image_frontend": [],
        "image_encoder": ["body.1", "body.3", "body.5", "body.6", "body.8"],
        "audio_frontend": [],
        "audio_encoder": ["blocks.0", "blocks.1"],
        "text_encoder": ["blocks.0", "blocks.1"],
        "fusion": ["fusion.block"],
    }


def test_only_blocks_that_add_their_input_are_removable(stage_of: Any) -> None:
    plain = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
    nested = nn.Sequential(Residual(), Residual())
    twice = Residual()
    module = _chain(plain, Residual(), Residual(closing=nn.LayerNorm(8)), nested, twice, twice)
    assert removable_blocks(stage_of(module, (1, 5))) == ["2", "3", "4.0", "4.1"]


def test_the_block_that_changes_its_input_least_goes(stage_of: Any, examples_of: Any) -> None:
    module = _chain(Residual(), Residual(), Residual())
    stage = stage_of(module, (1, 5))
    with torch.no_grad():
        for parameter in module[2].body[2].parameters():  # type: ignore[union-attr,index]
            parameter.zero_()
    before = copy.deepcopy(module.state_dict())
    inputs, (expected,) = examples_of(stage).batch(range(4))
    pruned: Any = DepthPruner().prune(stage, _step(0.34), examples_of(stage))
    assert isinstance(pruned[2], Skipped)
    torch.testing.assert_close(pruned(*inputs), expected)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


def test_a_removed_block_leaves_no_node(digits: Mapping[str, TorchStage], examples_of: Any) -> None:
    import onnx

    stage = digits["text_encoder"]
    pruned = DepthPruner().prune(stage, _step(0.5), examples_of(stage))
    (gone,) = [name for name, part in pruned.named_modules() if isinstance(part, Skipped)]
    graphs = [
        onnx.load_from_string(OnnxTarget().lower(TorchStage(stage.spec, module)).data).graph
        for module in (stage.module, pruned)
    ]
    names = [[node.name for node in graph.node] for graph in graphs]
    assert any(name.startswith(gone) for name in names[0])
    assert not any(name.startswith(gone) for name in names[1])
    assert len(names[1]) < len(names[0]) - 20


def test_ratio_zero_removes_nothing(digits: Mapping[str, TorchStage], examples_of: Any) -> None:
    stage = digits["audio_encoder"]
    pruned = DepthPruner().prune(stage, _step(0), examples_of(stage))
    assert removable_blocks(TorchStage(stage.spec, pruned)) == removable_blocks(stage)


def test_a_ratio_that_removes_no_block_is_refused(digits: Mapping[str, TorchStage], examples_of: Any) -> None:
    stage = digits["audio_encoder"]
    with pytest.raises(PruneError, match=r"removes no block of the stage 'audio_encoder': got 0.4 of 2, .* least 0.5"):
        DepthPruner().prune(stage, _step(0.4), examples_of(stage))
    with pytest.raises(PruneError, match=r"got 0.5 of 1, expected two blocks or more"):
        DepthPruner().prune(digits["fusion"], _step(0.5), examples_of(digits["fusion"]))


def test_a_stage_without_residual_blocks_is_refused(digits: Mapping[str, TorchStage], examples_of: Any) -> None:
    stage = digits["audio_frontend"]
    with pytest.raises(PruneError, match=r"'audio_frontend' holds nothing that 'depth' can prune: expected residual"):
        DepthPruner().prune(stage, _step(0.5), examples_of(stage))
