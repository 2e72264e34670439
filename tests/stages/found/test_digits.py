"""The modules of `digits`, joined into a plain module, give the stages that `digits` has when its user names them."""

from __future__ import annotations

import onnx
import pytest
import torch
from torch import Tensor, nn

from edgefuse.export import costs
from edgefuse.export.target import Lowered
from edgefuse.export.tflite.file import unpack
from edgefuse.models import FusionModel
from edgefuse.models.digits.model import build
from edgefuse.registry import create
from edgefuse.stages.explicit import split
from edgefuse.stages.found import find
from edgefuse.stages.stage import TorchStage


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


def normal_form(lowered: Lowered, target: str, stage: TorchStage) -> tuple[list[object], list[bytes]]:
    """Return the operators of a file, tensors by the order in which they appear and their sizes, and its weights."""
    graph = costs.graph(lowered, target, stage.spec)
    numbers: dict[str, int] = {}
    steps: list[object] = [
        (one.kind, one.mac, [(numbers.setdefault(n, len(numbers)), graph.sizes[n]) for n in (*one.reads, *one.writes)])
        for one in graph.operations
    ]
    if target == "onnx":
        weights = [weight.raw_data for weight in onnx.load_from_string(lowered.data).graph.initializer]
    else:
        weights = [bytes(buffer.data) for buffer in unpack(lowered.data).buffers if buffer.data is not None]
    return steps, sorted(weights)


@pytest.mark.parametrize(
    "target", ["onnx", pytest.param("tflite", marks=[pytest.mark.exhaustive, pytest.mark.timeout(600)])]
)
def test_the_same_files_are_made_of_them(target: str) -> None:
    """Of the other stages, which are the same modules with the same wiring, there is one file anyway."""
    torch.manual_seed(0)
    model, made_by = build(), create("targets", target)
    by_hand, made = split(model)[-1], find(Joined(model).eval(), model.spec).stages[-1]
    own, other = (normal_form(made_by.lower(stage), target, stage) for stage in (by_hand, made))
    assert own == other
