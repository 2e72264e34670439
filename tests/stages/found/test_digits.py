"""The modules of `digits`, joined into a plain module, give the stages that `digits` has when its user names them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgefuse.models import FusionModel
from edgefuse.models.digits.model import build
from edgefuse.stages.explicit import split
from edgefuse.stages.found import find


class Joined(nn.Module):
    """What someone would write who never heard of stages."""

    def __init__(self, model: FusionModel) -> None:
        super().__init__()
        self.image, self.audio, self.text = (model.encoders[name] for name in ("image", "audio", "text"))
        self.fusion = model.fusion

    def forward(self, image: Tensor, audio: Tensor, text: Tensor, length: Tensor, present: Tensor) -> Tensor:
        image = self.image(self.image.frontend(image))  # type: ignore[operator] # a module
        audio = self.audio(self.audio.frontend(audio))  # type: ignore[operator] # a module
        features = {"image": image, "audio": audio, "text": self.text(text, length)}
        y: Tensor = self.fusion(features, present)
        return y


def test_the_same_stages_are_found() -> None:
    torch.manual_seed(0)
    model = build()
    by_hand, made = split(model), find(Joined(model).eval(), model.spec)
    assert [stage.spec for stage in made.stages] == [stage.spec for stage in by_hand]
    for own, stage in zip(by_hand[:-1], made.stages[:-1], strict=True):
        assert stage.module is own.module
    assert made.stages[-1].module.get_submodule("fusion") is model.fusion
