"""Prunings as a check tries them: as far as a compile rehearses them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from edgefuse.compiler.check.pruning import trials
from edgefuse.compiler.model.subject import Model
from edgefuse.compiler.workers import Settings, create
from edgefuse.datasets.cache import Cache

PRUNE = """
[[prune.variants]]
stages = ["motion_encoder", "words_encoder", "fusion"]
steps = [{ method = "structured", ratio = 0.5 }]
"""


class Untrainable(nn.Module):
    """Answers, and cannot learn."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 16), nn.Linear(16, 8)

    def forward(self, values: Tensor) -> Tensor:
        if self.training:
            raise RuntimeError("it was frozen for good")
        y: Tensor = self.second(torch.relu(self.first(values))).mean(1)
        return y


def test_a_pruning_is_rehearsed_as_a_compile_does(opened: Callable[..., Model], tmp_path: Path) -> None:
    """What cannot be trained is told by the check, though it can be narrowed."""
    model = opened(more=PRUNE)
    stages = [replace(model.stages[0], module=Untrainable().eval()), *model.stages[1:]]
    with create("local", Settings(shared=tmp_path)) as workers:
        found = trials(model.recipe, stages, Cache(tmp_path), workers)
    assert [one.stage for one in found] == ["motion_encoder", "words_encoder", "fusion"]
    assert found[0].says == (
        "the stage 'motion_encoder' cannot be pruned by structured50: got RuntimeError: it was frozen for good. "
        "Fix: leave this stage out of the step, or choose another method."
    )
