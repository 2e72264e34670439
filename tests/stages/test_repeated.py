"""A model that answers the same inputs otherwise each time is refused before it is taken apart."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - as everyone calls it
from torch import Tensor, nn

from edgefuse.bundle.spec import ClassOutput, EmbeddingOutput, ModelSpec, tensor
from edgefuse.errors import ModelError
from edgefuse.models.fusion import FusionModel
from edgefuse.stages.explicit import split
from edgefuse.stages.found import find

SPEC = ModelSpec(
    name="m",
    modalities=(tensor("sound", shape=(1, 20)), tensor("motion", shape=(1, 6))),
    outputs=(ClassOutput(labels=("a", "b", "c")),),
)


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.sound, self.motion, self.head = nn.Linear(20, 16), nn.Linear(6, 16), nn.Linear(32, 3)

    def forward(self, sound: Tensor, motion: Tensor) -> Tensor:
        y: Tensor = self.head(self.between(torch.cat([self.sound(sound).relu(), self.motion(motion).relu()], 1)))
        return y

    def between(self, both: Tensor) -> Tensor:
        return both


class AlwaysDropping(Pair):
    def between(self, both: Tensor) -> Tensor:
        return F.dropout(both, 0.3)


class Sampling(Pair):
    def between(self, both: Tensor) -> Tensor:
        return both + torch.randn_like(both)


class Unheard(Pair):
    """What it draws goes into nothing."""

    def between(self, both: Tensor) -> Tensor:
        return both + 0 * torch.rand_like(both)


class Counting(Pair):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def between(self, both: Tensor) -> Tensor:
        self.calls += 1
        return both * self.calls


@pytest.mark.parametrize(
    ("module", "line"), [(AlwaysDropping, r"return F\.dropout"), (Sampling, r"return both \+ torch\.randn")]
)
def test_a_model_that_draws_random_numbers_is_told_where(module: type[nn.Module], line: str) -> None:
    with pytest.raises(
        ModelError,
        match=r"the stage 'model' answers the same inputs otherwise each time: got a difference of .* of the largest "
        rf"answer: it draws random numbers at 'test_repeated.py:\d+: {line}.* Fix: draw no random numbers in eval mode",
    ):
        find(module().eval(), SPEC)


def test_a_model_that_keeps_something_between_calls_is_told_so() -> None:
    with pytest.raises(ModelError, match=r"keeps something from one call to the next.* Fix: keep no state"):
        find(Counting().eval(), SPEC)


def test_what_is_drawn_and_not_used_is_in_nobodys_way() -> None:
    assert find(Unheard().eval(), SPEC).stages


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        return y + torch.bernoulli(torch.full_like(y, 0.5))


class Only(nn.Module):
    def forward(self, features: dict[str, Tensor], present: Tensor) -> Tensor:
        return features["motion"]


def test_an_encoder_of_a_fusion_model_that_draws_is_named() -> None:
    spec = ModelSpec(
        name="m", modalities=(tensor("motion", shape=(1, 6)),), outputs=(EmbeddingOutput(name="space", size=4),)
    )
    model = FusionModel(spec, {"motion": Noisy()}, Only()).eval()
    with pytest.raises(ModelError, match=r"the stage 'motion_encoder' answers .* draws random numbers at .*bernoulli"):
        split(model)
