from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from safetensors.torch import load
from torch import Tensor, nn

from edgefuse.bundle.manifest import PruningStep
from edgefuse.errors import PruneError
from edgefuse.prune import persist
from edgefuse.prune.pruner import apply_steps
from edgefuse.stages.stage import TorchStage


def _steps(*names: str) -> list[PruningStep]:
    return [PruningStep(method=name, ratio=0.5) for name in names]


@pytest.mark.parametrize(
    ("name", "methods"),
    [
        ("image_encoder", ("depth", "structured")),
        ("audio_encoder", ("depth", "structured", "semi_structured")),
        ("text_encoder", ("vocabulary", "vocabulary", "depth", "structured", "magnitude")),
        ("fusion", ("structured",)),
    ],
)
def test_a_pruned_stage_comes_back_as_it_was(
    digits: Mapping[str, TorchStage], examples_of: Any, name: str, methods: tuple[str, ...]
) -> None:
    stage, examples = digits[name], examples_of(digits[name])
    pruned = apply_steps(stage, _steps(*methods), examples)
    data = persist.save(pruned)
    restored = persist.restore(stage.module, data)
    assert str(restored) == str(pruned)
    assert persist.save(restored) == data
    inputs, _ = examples.batch(range(3))
    with torch.no_grad():
        assert torch.equal(restored(*inputs), pruned(*inputs))


class Mixed(nn.Module):
    """Layers whose sizes are attributes, and one weight that two layers share."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Sequential(nn.Conv2d(3, 16, 1), nn.PReLU(16), nn.ConvTranspose2d(16, 16, 2), nn.BatchNorm2d(16))
        self.rnn = nn.GRU(16, 12, batch_first=True, bidirectional=True)
        self.first = nn.Linear(24, 10, bias=False)
        self.second = nn.Linear(24, 10, bias=False)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        y = self.rnn(self.image(x).flatten(2).transpose(1, 2))[0].mean(dim=1)
        z: Tensor = self.first(y) + self.second(y)
        return z


def test_sizes_follow_from_tensors_and_sharing_stays(stage_of: Any, examples_of: Any) -> None:
    stage = stage_of(Mixed(), (1, 3, 4, 4))
    stage.module.second.weight = stage.module.first.weight
    examples = examples_of(stage)
    pruned = apply_steps(stage, _steps("structured"), examples)
    restored: Any = persist.restore(stage.module, persist.save(pruned))
    assert str(restored) == str(pruned)
    assert restored.first.weight is restored.second.weight
    inputs, _ = examples.batch(range(2))
    with torch.no_grad():
        assert torch.equal(restored(*inputs), pruned(*inputs))


def test_the_bytes_are_plain_tensors(digits: Mapping[str, TorchStage], examples_of: Any) -> None:
    stage = digits["fusion"]
    tensors = load(persist.save(apply_steps(stage, _steps("structured"), examples_of(stage))))
    structure = bytes(tensors["__structure__"].tolist())
    assert structure == b'{"compact":[],"heads":{"fusion.block.attention":[2,48]},"skipped":[]}'


def test_damaged_or_foreign_bytes_are_refused(digits: Mapping[str, TorchStage], examples_of: Any) -> None:
    text, fusion = digits["text_encoder"], digits["fusion"]
    data = persist.save(apply_steps(text, _steps("depth"), examples_of(text)))
    with pytest.raises(PruneError, match=r"a saved pruned module is damaged: .*Fix: prune the stage again"):
        persist.restore(text.module, data[: len(data) // 2])
    with pytest.raises(PruneError, match=r"does not belong to this module: got .*blocks"):
        persist.restore(fusion.module, data)
