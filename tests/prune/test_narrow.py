from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgefuse.bundle import spec
from edgefuse.bundle.spec import Dim
from edgefuse.errors import PruneError
from edgefuse.models.digits import build
from edgefuse.models.fusion import FusionModel
from edgefuse.prune.narrow import narrowed
from edgefuse.prune.persist import restore, save
from edgefuse.stages.examples import chained_feeds, run_torch
from edgefuse.stages.explicit import as_one_stage, split

WEIGHTS = Path(__file__).parents[2] / "examples" / "digits" / "digits.safetensors"


class Picture(nn.Module):
    """A flattened map."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 16, 12))

    def forward(self, pixels: Tensor) -> Tensor:
        y: Tensor = self.body(pixels.permute(0, 3, 1, 2).to(torch.float32) / 255.0)
        return y


class Trace(nn.Module):
    """A linear layer over every step of a sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 24), nn.Linear(24, 20)

    def forward(self, values: Tensor) -> Tensor:
        y: Tensor = self.second(torch.relu(self.first(values)).mean(dim=1))
        return y


class Joined(nn.Module):
    """What is present stands first among the features, where no gradient shows it."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(2 + 12 + 20, 16), nn.ReLU(), nn.Linear(16, 3))

    def forward(self, features: Mapping[str, Tensor], present: Tensor) -> Tensor:
        y: Tensor = self.body(torch.cat([present, features["picture"], features["trace"]], dim=-1))
        return y


def joined() -> FusionModel:
    model = spec.ModelSpec(
        name="joined",
        modalities=(
            spec.image("picture", height=8, width=8, channels=1, optional=True),
            spec.tensor("trace", shape=(1, 5, 6), optional=True),
        ),
        outputs=(spec.ClassOutput(labels=("a", "b", "c")),),
    )
    torch.manual_seed(0)
    return FusionModel(model, {"picture": Picture(), "trace": Trace()}, Joined()).eval()


def features(model: FusionModel) -> dict[str, Dim]:
    """Return the width of what each encoder gives."""
    shapes = {stage.spec.name: stage.spec.outputs[0].tensor.shape for stage in split(model)}
    return {name: shape[-1] for name, shape in shapes.items() if name.endswith("_encoder")}


def test_the_features_of_the_reference_model_lose_half(examples_of: Any) -> None:
    model = build(weights=WEIGHTS)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    small = narrowed(model, 0.5, "magnitude", examples_of(as_one_stage(model)))
    assert set(features(model).values()) == {192}
    assert set(features(small).values()) == {96}
    assert sum(p.numel() for p in small.parameters()) < 0.35 * sum(p.numel() for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    stages = {stage.spec.name: stage for stage in split(model)}
    feeds = next(chained_feeds(split(small), count=1, fixed=True))
    for stage in split(small):
        again = restore(stages[stage.spec.name].module, save(stage.module))
        with torch.no_grad():
            ours = run_torch(stage, feeds[stage.spec.name])
            theirs = again(*(torch.tensor(feeds[stage.spec.name][port.tensor.name]) for port in stage.spec.inputs))
        assert torch.equal(torch.tensor(next(iter(ours.values()))), theirs)


@pytest.mark.parametrize("importance", ["magnitude", "taylor"])
def test_features_that_are_joined_beside_a_mask_are_narrowed_each_by_itself(examples_of: Any, importance: str) -> None:
    model = joined()
    small = narrowed(model, 0.5, importance, examples_of(as_one_stage(model)))
    assert features(small) == {"picture_encoder": 6, "trace_encoder": 10}
    assert small.fusion.get_submodule("body.0").in_features == 2 + 6 + 10
    assert small.encoders["picture"].get_submodule("body.3").in_features == 8 * 16


def test_the_mask_keeps_its_place_among_narrowed_features(examples_of: Any) -> None:
    model = joined()
    first = model.fusion.get_submodule("body.0")
    assert isinstance(first, nn.Linear)
    with torch.no_grad():
        first.weight[:, :2] = 7.0
    small = narrowed(model, 0.5, "magnitude", examples_of(as_one_stage(model)))
    weight = small.fusion.get_submodule("body.0").get_parameter("weight")
    assert bool((weight[:, :2] == 7.0).all())
    assert not bool((weight[:, 2:] == 7.0).any())


def test_a_ratio_that_is_no_fraction_is_refused(examples_of: Any) -> None:
    model = joined()
    with pytest.raises(PruneError, match=r"the fraction to remove: got 1\.5"):
        narrowed(model, 1.5, "", examples_of(as_one_stage(model)))
