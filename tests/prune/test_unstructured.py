from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import nn

from edgefuse.bundle.manifest import PruningStep
from edgefuse.errors import PruneError
from edgefuse.prune.pruner import apply_steps
from edgefuse.prune.unstructured import MagnitudePruner, SemiStructuredPruner, apply_masks, masks
from edgefuse.stages.stage import TorchStage


def _magnitude(ratio: float, importance: str = "") -> PruningStep:
    return PruningStep(method="magnitude", ratio=ratio, importance=importance)


def _half() -> PruningStep:
    return PruningStep(method="semi_structured", ratio=0.5)


@pytest.fixture
def uneven(stage_of: Any) -> TorchStage:
    """A stage whose second layer has weights a hundred times those of the first."""
    stage: TorchStage = stage_of(nn.Sequential(nn.Conv2d(4, 8, 3), nn.Flatten(), nn.Linear(32, 10)), (1, 4, 4, 4))
    with torch.no_grad():
        stage.module.get_parameter("2.weight").mul_(100)
    return stage


def test_the_smallest_weights_of_each_layer_become_zero(uneven: TorchStage, examples_of: Any) -> None:
    before = copy.deepcopy(uneven.module.state_dict())
    pruned = MagnitudePruner().prune(uneven, _magnitude(0.25), examples_of(uneven))
    for name in ("0.weight", "2.weight"):
        weight, old = pruned.get_parameter(name), before[name]
        zero = weight == 0
        assert int(zero.sum()) == weight.numel() // 4
        assert old[zero].abs().max() <= old[~zero].abs().min()
        assert torch.equal(weight[~zero], old[~zero])
    assert list(pruned.state_dict()) == list(before)
    assert all(torch.equal(before[name], value) for name, value in uneven.module.state_dict().items())


def test_a_global_ranking_takes_from_the_layer_with_small_weights(uneven: TorchStage, examples_of: Any) -> None:
    pruned = MagnitudePruner().prune(uneven, _magnitude(0.4, "global"), examples_of(uneven))
    small, large = (pruned.get_parameter(name) for name in ("0.weight", "2.weight"))
    total = small.numel() + large.numel()
    assert int((small == 0).sum() + (large == 0).sum()) == round(0.4 * total)
    assert (small == 0).float().mean() > 0.75
    assert (large == 0).float().mean() < 0.1


def test_two_of_every_four_inputs_stay(uneven: TorchStage, examples_of: Any) -> None:
    pruned = SemiStructuredPruner().prune(uneven, _half(), examples_of(uneven))
    linear = pruned.get_parameter("2.weight").reshape(10, 8, 4)
    convolution = pruned.get_parameter("0.weight").movedim(1, -1)
    assert torch.equal((linear != 0).sum(dim=-1), torch.full((10, 8), 2))
    assert torch.equal((convolution != 0).sum(dim=-1), torch.full((8, 3, 3), 2))
    old = uneven.module.get_parameter("2.weight").reshape(10, 8, 4).abs()
    assert torch.equal(torch.where(linear != 0, old, 0).sum(dim=-1), old.topk(2).values.sum(dim=-1))


def test_masks_keep_zeros_through_training(uneven: TorchStage, examples_of: Any) -> None:
    pruned = SemiStructuredPruner().prune(uneven, _half(), examples_of(uneven))
    kept = masks(pruned)
    assert sorted(kept) == ["0.weight", "2.weight"]
    optimizer = torch.optim.AdamW(pruned.parameters(), lr=0.1)
    inputs, _ = examples_of(uneven).batch(range(4))
    torch.autograd.backward(pruned(*inputs).square().sum())
    optimizer.step()
    assert all(bool((pruned.get_parameter(name)[~kept[name]] != 0).any()) for name in kept)
    apply_masks(pruned, kept)
    assert all(torch.equal(mask, kept[name]) for name, mask in masks(pruned).items())
    assert masks(uneven.module) == {}


def test_it_follows_structured_pruning(digits: Mapping[str, TorchStage], examples_of: Any) -> None:
    stage = digits["fusion"]
    pruned = apply_steps(stage, [PruningStep(method="structured", ratio=0.5), _half()], examples_of(stage))
    weight = pruned.get_parameter("fusion.block.feed_forward.0.weight")
    assert weight.shape == (256, 96)
    assert int((weight == 0).sum()) == weight.numel() // 2


def test_ratio_zero_changes_nothing(digits: Mapping[str, TorchStage], examples_of: Any) -> None:
    stage = digits["fusion"]
    for pruner, method in ((MagnitudePruner(), "magnitude"), (SemiStructuredPruner(), "semi_structured")):
        pruned = pruner.prune(stage, PruningStep(method=method, ratio=0), examples_of(stage))
        assert masks(pruned) == {}


def test_what_cannot_be_done_is_said(digits: Mapping[str, TorchStage], stage_of: Any, examples_of: Any) -> None:
    frontend, examples = digits["image_frontend"], examples_of(digits["image_frontend"])
    with pytest.raises(PruneError, match=r"2:4 pruning removes exactly half of the weights: got ratio 0.25, .* 0.5"):
        SemiStructuredPruner().prune(frontend, PruningStep(method="semi_structured", ratio=0.25), examples)
    with pytest.raises(PruneError, match=r"'image_frontend' holds nothing that 'magnitude' can prune"):
        MagnitudePruner().prune(frontend, _magnitude(0.5), examples)
    odd = stage_of(nn.Linear(6, 3), (1, 6))
    with pytest.raises(PruneError, match=r"expected a Linear or convolution over a multiple of 4 input channels"):
        SemiStructuredPruner().prune(odd, _half(), examples_of(odd))
    with pytest.raises(PruneError, match=r"got 1.2, expected at least 0 and below 1"):
        MagnitudePruner().prune(frontend, _magnitude(1.2), examples)


def test_an_option_that_a_method_does_not_know_is_refused_and_names_differ_by_options(
    uneven: TorchStage, examples_of: Any
) -> None:
    step = PruningStep(method="magnitude", ratio=0.5, options=(("block", 4),))
    assert step.id != _magnitude(0.5).id == "magnitude50"
    with pytest.raises(PruneError, match="'magnitude' pruning does not know this option: got 'block', expected none"):
        apply_steps(uneven, [step], examples_of(uneven))
