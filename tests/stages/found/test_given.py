"""What is given to `find`: a module with a spec or without, its own or another, and left as it was."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from msgspec.structs import replace
from torch import Tensor, nn

from edgefuse.bundle.spec import image, tensor
from edgefuse.compiler.candidates.golden import golden_inputs
from edgefuse.errors import ModelError
from edgefuse.models.fusion import FusionModel
from edgefuse.stages.found import find
from tests.stages.found.models import MOTION, SOUND, Plain, described


class First(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :4]


class Only(nn.Module):
    def forward(self, features: dict[str, Tensor], present: Tensor) -> Tensor:
        return features["motion"]


def test_a_module_without_a_spec_is_told_to_have_one() -> None:
    with pytest.raises(ModelError, match="the model Plain does not describe itself: got spec = NoneType, expected an"):
        find(Plain())


def test_a_fusion_model_has_its_own_spec_and_no_other() -> None:
    model = FusionModel(described(MOTION), {"motion": First()}, Only())
    assert find(model, described(MOTION)).spec == model.spec
    with pytest.raises(ModelError, match="'plain' was given another spec than its own: got 'plain', which differs"):
        find(model, described(SOUND))


class Positions(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x.mean(1)[:, :4] + y.mean(1)[:, :4]


def test_the_callers_module_stays_as_it_was() -> None:
    model = Positions().eval()
    made = find(model, described(SOUND, MOTION))
    assert made.spec == made.module.spec
    assert not hasattr(model, "spec")


class Anything(nn.Module):
    """Takes keywords of any name, as models of many modalities do."""

    def __init__(self) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({"sound": nn.Linear(8, 32), "motion": nn.Linear(6, 32)})
        self.head = nn.Linear(64, 4)

    def forward(self, **inputs: Tensor) -> Tensor:
        features = [encoder(inputs[name]).relu().mean(1) for name, encoder in self.encoders.items()]
        y: Tensor = self.head(torch.cat(features, 1))
        return y


def test_keywords_of_any_name_are_those_of_the_modalities() -> None:
    made = find(Anything(), described(SOUND, MOTION))
    assert [stage.spec.name for stage in made.stages] == ["sound_encoder", "motion_encoder", "fusion"], made.notes


class Wrapper(nn.Module):
    """Hands on whatever it is given, as adapters and wrappers for training do."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.inner = module

    def forward(self, *args: Tensor, **kwargs: Tensor) -> Tensor:
        y: Tensor = self.inner(*args, **kwargs)
        return y


@pytest.mark.parametrize("wrap", [partial(torch.compile, backend="eager"), nn.DataParallel, Wrapper])
def test_a_model_is_found_inside_of_what_wraps_it(wrap: Callable[[nn.Module], nn.Module]) -> None:
    made = find(wrap(Plain().eval()), described(SOUND, MOTION))
    assert [stage.spec.name for stage in made.stages] == ["sound_encoder", "motion_encoder", "fusion"], made.notes


def test_a_wrapper_of_what_has_other_names_is_called_by_position() -> None:
    made = find(Wrapper(Other()), described(SOUND, MOTION))
    assert [stage.spec.name for stage in made.stages] == ["model"]
    assert "by position" in made.notes[0]


class Other(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.plain = Plain()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.plain(x, y)["logits"]  # type: ignore[no-any-return] # a tensor


class Flagged(nn.Module):
    """Flags that nothing is done to before fusion, a picture and a sound: each may be absent."""

    def __init__(self) -> None:
        super().__init__()
        self.look, self.hear = nn.Conv2d(3, 8, 4, 4), nn.Sequential(nn.Linear(12, 64), nn.ReLU(), nn.Linear(64, 8))
        self.head = nn.Linear(20, 4)

    def forward(self, flags: Tensor, image: Tensor, audio: Tensor, present: Tensor) -> Tensor:
        seen = self.look(image.permute(0, 3, 1, 2).to(torch.float32)).mean((2, 3))
        parts = torch.cat([flags * present[:, :1], seen * present[:, 1:2], self.hear(audio) * present[:, 2:]], 1)
        y: Tensor = self.head(parts)
        return y


def test_an_absent_modality_is_silent_itself_whatever_the_order_of_stages() -> None:
    modalities = tuple(
        replace(modality, optional=True)
        for modality in (
            tensor("flags", shape=(1, 4)),
            image("image", height=16, width=16),
            tensor("audio", shape=(1, 12)),
        )
    )
    made = find(Flagged(), described(*modalities))
    fusion = made.stages[-1].spec
    owners = {port.tensor.name: port.source for port in fusion.inputs}
    assert next(port.source.kind for port in fusion.inputs if port.source.owner == "flags") == "modality"
    for feeds in golden_inputs(made.stages, made.spec).feeds["fusion"]:
        for name, source in owners.items():
            column = next((i for i, m in enumerate(modalities) if source.owner in (m.name, f"{m.name}_encoder")), None)
            if column is not None and feeds["present"][0, column] == 0:
                assert not feeds[name].any(), (name, feeds["present"])
            elif column is not None:
                assert feeds[name].any(), (name, feeds["present"])
