"""Widths that cannot be narrowed, since the forward pass holds them to a size: they stay, and the others go."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgefuse.bundle.manifest import PruningStep
from edgefuse.prune.pruner import apply_steps
from edgefuse.prune.trial import try_widths


class Stubborn(nn.Module):
    """One width of three is a constant in the forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.fixed, self.free = nn.Linear(6, 40), nn.Linear(40, 32), nn.Linear(32, 48)
        self.head = nn.Linear(48, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.fixed(torch.relu(self.enter(x))).reshape(-1, 4, 8).transpose(1, 2).reshape(-1, 32)
        z: Tensor = self.head(torch.relu(self.free(y)))
        return z


@pytest.mark.parametrize("method", ["hidden", "structured"])
def test_a_width_that_is_a_constant_stays_and_the_others_are_narrowed(
    stage_of: Any, examples_of: Any, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    stage = stage_of(Stubborn(), (1, 6))
    pruned: Any = apply_steps(stage, [PruningStep(method=method, ratio=0.5)], examples_of(stage))
    assert (pruned.enter.out_features, pruned.fixed.out_features, pruned.free.out_features) == (24, 32, 24)
    stuck = [verdict for verdict in try_widths(stage) if verdict.is_stuck]
    assert [(verdict.name, verdict.size) for verdict in stuck] == [("fixed", 32)]
    assert stuck[0].reason in caplog.text
    assert (
        "'fixed' keeps its 32 channels: with fewer the stage does not run, or not right "
        "(RuntimeError: shape '[-1, 4, 8]'" in caplog.text
    )


class Shuffled(nn.Module):
    """Channels change places by a view that would run with fewer of them, and take others for those that are left."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.middle, self.head = nn.Linear(6, 32), nn.Linear(32, 48), nn.Linear(48, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.enter(x))
        y = y.view(len(x), 4, -1).transpose(1, 2).reshape(len(x), -1)
        z: Tensor = self.head(torch.relu(self.middle(y)))
        return z


def test_a_width_that_runs_narrower_but_wrong_stays(stage_of: Any, examples_of: Any) -> None:
    stage = stage_of(Shuffled(), (1, 6))
    (stuck,) = [verdict for verdict in try_widths(stage) if verdict.is_stuck]
    assert stuck.name == "enter"
    assert "it takes other channels for those that are left" in stuck.reason
    pruned: Any = apply_steps(stage, [PruningStep(method="structured", ratio=0.5)], examples_of(stage))
    assert (pruned.enter.out_features, pruned.middle.out_features) == (32, 24)
