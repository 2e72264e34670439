"""Widths that cannot be narrowed, since the forward pass holds them to a size: they stay, and the others go."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgefuse.bundle.manifest import PruningStep
from edgefuse.prune.pruner import apply_steps
from edgefuse.prune.trial import try_widths
from edgefuse.stages.explicit import split
from tests.decoders import CachedDecoder, generating


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


class Scanned(nn.Module):
    """A selective scan in plain torch (as Mamba's, arXiv:2312.00752), whose products the dependency graph mistakes."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.both, self.pace = nn.Linear(16, 32), nn.Linear(32, 16), nn.Linear(32, 32)
        self.decay, self.direct = nn.Parameter(-torch.rand(32, 8)), nn.Parameter(torch.ones(32))
        self.out, self.wide, self.narrow = nn.Linear(32, 32), nn.Linear(32, 64), nn.Linear(64, 32)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        write, read = self.both(x).chunk(2, -1)
        pace = nn.functional.softplus(self.pace(x))
        kept = torch.exp(pace[..., None] * self.decay)
        added = pace[..., None] * write[:, :, None, :] * x[..., None]
        state, found = x.new_zeros(len(x), 32, 8), []
        for step in range(x.shape[1]):
            state = kept[:, step] * state + added[:, step]
            found.append(torch.einsum("bdn,bn->bd", state, read[:, step]))
        y: Tensor = torch.stack(found, 1) + x * self.direct
        y = y + self.narrow(torch.relu(self.wide(self.out(y))))
        return y.mean(1)


def test_what_the_dependency_graph_cannot_follow_stays_and_the_rest_is_narrowed(
    stage_of: Any, examples_of: Any
) -> None:
    stage = stage_of(Scanned(), (1, 24, 16))
    stuck = {verdict.name: verdict.reason for verdict in try_widths(stage) if not verdict.narrows}
    assert stuck["enter"] == "'enter' keeps its 32 channels: an operator on the way cannot be followed"
    pruned: Any = apply_steps(stage, [PruningStep(method="structured", ratio=0.5)], examples_of(stage))
    assert (pruned.enter.out_features, pruned.out.out_features, pruned.wide.out_features) == (32, 16, 32)


def test_a_circle_of_reshapes_ends_and_its_widths_stay() -> None:
    step = split(generating(CachedDecoder, 64))[-1]  # heads of a cache are reshaped, stored, and read again
    verdicts = try_widths(step, 0.3)
    assert {one.name for one in verdicts if one.is_stuck} >= {"decoder.projected", "decoder.embedding"}
