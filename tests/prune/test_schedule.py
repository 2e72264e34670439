from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from edgefuse.errors import PruneError
from edgefuse.prune.schedule import gradually, plan, share_of_rest


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [(0.3, (0.3,)), (0.5, (0.5,)), (0.65, (0.5, 0.65)), (0.75, (0.5, 0.6464, 0.75))],
)
def test_ratios_above_one_half_are_reached_in_steps(ratio: float, expected: tuple[float, ...]) -> None:
    assert plan(ratio) == pytest.approx(expected, abs=1e-4)


@given(st.floats(0.01, 0.99))
def test_a_plan_ascends_to_its_ratio(ratio: float) -> None:
    steps = plan(ratio)

    assert steps[-1] == ratio
    assert all(low < high for low, high in itertools.pairwise(steps))
    assert steps[0] <= 0.5


@pytest.mark.parametrize("ratio", [0.0, 1.0, 1.2, float("nan")])
def test_a_ratio_must_remove_something_and_keep_something(ratio: float) -> None:
    with pytest.raises(PruneError, match=f"got {ratio}, expected between 0 and 1"):
        plan(ratio)


def test_shares_add_up_to_the_ratio() -> None:
    left, reached = 1.0, 0.0
    for ratio in plan(0.9):
        left *= 1 - share_of_rest(reached, ratio)
        reached = ratio
    assert left == pytest.approx(0.1)


def test_pruning_and_recovery_take_turns() -> None:
    done: list[str] = []

    def prune(module: nn.Module, share: float) -> nn.Module:
        done.append(f"prune {share:.2f}")
        return nn.Sequential(module)

    def recover(module: nn.Module, ratio: float) -> nn.Module:
        done.append(f"recover {ratio:.2f}")
        return nn.Sequential(module)

    result = gradually(nn.Identity(), 0.75, prune, recover)

    assert done == ["prune 0.50", "recover 0.50", "prune 0.29", "recover 0.65", "prune 0.29", "recover 0.75"]
    assert len(list(result.modules())) == 7
