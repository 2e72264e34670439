"""Weights that are computed in every run become plain ones."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from edgefuse.bundle.spec import tensor
from edgefuse.stages.found import find
from edgefuse.stages.parametrized import with_plain_weights
from tests.stages.found.models import MOTION, SOUND, Plain, described


def twice(layer: nn.Linear) -> nn.Module:
    return parametrizations.spectral_norm(parametrizations.weight_norm(layer))


def on_two(layer: nn.Linear) -> nn.Module:
    return weight_norm(weight_norm(layer), "bias", None)  # type: ignore[arg-type] # one norm for all


WRAPS: dict[str, Callable[[nn.Linear], nn.Module]] = {
    "weight norm": parametrizations.weight_norm,
    "spectral norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "both": twice,
    "hooks": weight_norm,
    "hooks on two": on_two,
    "spectral hooks": spectral_norm,
    "masks": lambda layer: prune.l1_unstructured(prune.random_unstructured(layer, "weight", 0.2), "weight", 0.2),  # type: ignore[no-untyped-call]
}


def made(name: str) -> nn.Module:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.Sequential(nn.Linear(6, 8), WRAPS[name](nn.Linear(8, 8)), nn.ReLU())


@pytest.mark.parametrize("name", WRAPS)
def test_a_computed_weight_becomes_a_plain_one_and_the_callers_stays(name: str) -> None:
    module, x = made(name), torch.randn(4, 6)
    module(x)  # in training: hooks hold weights with gradients
    plain = with_plain_weights(module)
    assert sorted(plain.state_dict()) == ["0.bias", "0.weight", "1.bias", "1.weight"]
    assert isinstance(plain[1], nn.Linear)  # type: ignore[index] # a sequence
    assert sorted(module.state_dict()) != sorted(plain.state_dict())
    torch.testing.assert_close(plain(x), module.eval()(x))


def test_a_module_of_plain_weights_is_itself() -> None:
    module = nn.Linear(3, 4)
    assert with_plain_weights(module) is module


class Steps(nn.Module):
    """Convolutions over time with a weight norm, as temporal convolutional networks have them."""

    def __init__(self) -> None:
        super().__init__()
        norm = parametrizations.weight_norm
        self.series = nn.Sequential(norm(nn.Conv1d(8, 16, 3)), nn.ReLU(), norm(nn.Conv1d(16, 16, 3)), nn.ReLU())
        self.motion, self.head = nn.Linear(6, 16), nn.Linear(32, 4)

    def forward(self, series: Tensor, motion: Tensor) -> Tensor:
        heard = self.series(series.transpose(1, 2)).mean(2)
        y: Tensor = self.head(torch.cat([heard, self.motion(motion).mean(1)], 1))
        return y


def test_stages_are_found_with_plain_weights() -> None:
    found = find(Steps(), described(tensor("series", shape=(1, 12, 8)), MOTION))
    assert found.work[0].modules == ("series",)
    names = list(found.stages[0].module.state_dict())
    assert names
    assert not any("parametrizations" in name for name in names)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_in_another_precision_are_taken_as_float32_and_that_is_said(dtype: torch.dtype) -> None:
    model = Plain().to(dtype)
    found = find(model, described(SOUND, MOTION))
    assert found.notes == (f"it has weights in {str(dtype).removeprefix('torch.')}, which are taken as float32",)
    assert len(found.stages) == 3
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
