from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgefuse.bundle import spec
from edgefuse.bundle.manifest import Tolerance
from edgefuse.bundle.spec import Bounded, Bucketed
from edgefuse.errors import ModelError
from edgefuse.measure.agreement import agreement
from edgefuse.models.fusion import FusionModel
from edgefuse.stages.examples import chained_feeds, example_feeds
from edgefuse.stages.explicit import split
from edgefuse.stages.running import run_torch
from edgefuse.stages.stage import TorchStage


class Double(nn.Module):
    def forward(self, values: Tensor) -> Tensor:
        return values * 2


class Sum(nn.Module):
    def forward(self, features: dict[str, Tensor], present: Tensor) -> Tensor:
        return features["x"].sum(dim=1, keepdim=True)


def fused(encoder: nn.Module, fusion: nn.Module | None = None, shape: tuple[spec.Dim, ...] = (1, 4)) -> FusionModel:
    description = spec.ModelSpec(
        name="m", modalities=(spec.tensor("x", shape=shape),), outputs=(spec.ValuesOutput(labels=("v",)),)
    )
    return FusionModel(description, {"x": encoder}, fusion or Sum())


def test_stages_are_wired_as_the_spec_says(stages: tuple[TorchStage, ...]) -> None:
    wiring = {stage.spec.name: {port.tensor.name: port.source.key for port in stage.spec.inputs} for stage in stages}
    assert wiring == {
        "camera_frontend": {"pixels": "camera.pixels"},
        "camera_encoder": {"feature": "/camera_frontend.feature"},
        "words_encoder": {"ids": "words.ids", "length": "words.length"},
        "fusion": {"camera": "/camera_encoder.feature", "words": "/words_encoder.feature", "present": "present"},
    }
    assert [stage.spec.role for stage in stages] == ["frontend", "encoder", "encoder", "fusion"]
    assert stages[-1].spec.outputs[0].kind == "result"


def test_interfaces_are_measured_and_stay_bounded(stage_by_name: dict[str, TorchStage]) -> None:
    assert stage_by_name["camera_frontend"].spec.outputs[0].tensor.shape == (1, 1, 16, 16)
    assert stage_by_name["words_encoder"].spec.outputs[0].tensor.shape == (1, Bounded(max=12), 4)
    assert stage_by_name["fusion"].spec.inputs[1].tensor.shape == (1, Bounded(max=12), 4)


def test_buckets_pass_through() -> None:
    stages = split(fused(Double(), shape=(1, Bucketed(sizes=(3, 6)))))
    assert stages[0].spec.outputs[0].tensor.shape == (1, Bucketed(sizes=(3, 6)))


def test_splitting_leaves_the_callers_model_in_training_mode() -> None:
    model = fused(nn.Sequential(nn.Linear(4, 2), nn.Dropout())).train()
    stages = split(model)
    assert model.training
    assert not any(module.training for stage in stages for module in stage.module.modules())


def test_stages_compute_what_the_model_computes(model: FusionModel, stages: tuple[TorchStage, ...]) -> None:
    feeds = next(chained_feeds(stages))
    inputs = {
        "camera.pixels": torch.from_numpy(feeds["camera_frontend"]["pixels"]),
        "words.ids": torch.from_numpy(feeds["words_encoder"]["ids"]),
        "words.length": torch.from_numpy(feeds["words_encoder"]["length"]),
    }
    model.eval()
    with torch.inference_mode():
        expected = model(inputs, torch.ones(1, 2))
    model.train()
    assert isinstance(expected, Tensor)
    assert agreement([(run_torch(stages[-1], feeds["fusion"]), {"logits": expected.numpy()})], Tolerance()).ok


def test_a_model_that_cannot_be_split_is_one_stage(model: FusionModel) -> None:
    class Whole(nn.Module):
        spec = model.spec

        def forward(self, pixels: Tensor, ids: Tensor, length: Tensor, present: Tensor) -> Tensor:
            total = pixels.to(torch.float32).mean() * present[:, :1] + length.unsqueeze(1) + ids.sum()
            return total.expand(1, 3)

    (stage,) = split(Whole())
    assert stage.spec.role == stage.spec.name == "model"
    ports = [port.tensor.name for port in stage.spec.inputs]
    assert ports == ["camera_pixels", "words_ids", "words_length", "present"]


def test_examples_repeat_and_cover_absence(stage_by_name: dict[str, TorchStage]) -> None:
    fusion = stage_by_name["fusion"]
    first, second = (list(example_feeds(fusion, count=3)) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert all(np.array_equal(one[name], other[name]) for name in one)
    assert [feeds["present"].tolist() for feeds in first] == [[[1.0, 1.0]], [[0.0, 1.0]], [[1.0, 0.0]]]
    assert not first[1]["camera"].any()
    assert first[2]["camera"].any()
    assert {feeds["words"].shape[1] for feeds in first} == {12, 9, 6}
    fixed = list(example_feeds(fusion, count=3, fixed=True))
    assert {feeds["words"].shape[1] for feeds in fixed} == {12}


def test_example_ids_fit_the_vocabulary(stage_by_name: dict[str, TorchStage]) -> None:
    feeds = next(example_feeds(stage_by_name["words_encoder"]))
    assert 0 <= feeds["ids"].min() <= feeds["ids"].max() < 20


class Raises(nn.Module):
    def forward(self, values: Tensor) -> Tensor:
        raise RuntimeError("boom")


class Halves(nn.Module):
    def forward(self, values: Tensor) -> Tensor:
        return values.to(torch.float16)


class Picks(nn.Module):
    def forward(self, values: Tensor) -> Tensor:
        return values[values > 0].unsqueeze(0)


class Logs(nn.Module):
    def forward(self, values: Tensor) -> Tensor:
        return torch.log(values - 5)


class Flat(nn.Module):
    def forward(self, values: Tensor) -> Tensor:
        return values.flatten()


class Lists(nn.Module):
    def forward(self, values: Tensor) -> Any:
        return [values]


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        (Raises(), r"'x_encoder' failed when called with \(values \[1, 4\]\): got RuntimeError: boom"),
        (Halves(), r"'feature' of the stage 'x_encoder' has the wrong type: got a tensor of torch.float16"),
        (Picks(), r"'x_encoder' depends on the values of its inputs"),
        (Logs(), r"'feature' of the stage 'x_encoder' is not finite on generated inputs"),
        (Flat(), r"lost the batch: got \[4\], expected \[1, ...\]"),
        (Lists(), r"has the wrong type: got list, expected a float32 tensor"),
    ],
)
def test_an_encoder_that_breaks_the_contract_is_named(encoder: nn.Module, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        split(fused(encoder))


def test_a_wrong_number_of_classes_is_named() -> None:
    with pytest.raises(ModelError, match=r"output 'values' of 'm' has another shape.*got \[1, 4\], expected \[1, 1\]"):
        split(fused(Double(), fusion=Wide()))


class Wide(nn.Module):
    def forward(self, features: dict[str, Tensor], present: Tensor) -> Tensor:
        return features["x"]


def test_a_model_without_a_spec_is_named() -> None:
    with pytest.raises(ModelError, match="Linear does not describe itself: got spec = NoneType"):
        split(nn.Linear(1, 1))


@pytest.mark.parametrize("name", ["present", "my image", "1st"])
def test_an_unusable_modality_name_is_named(name: str) -> None:
    modality = spec.tensor(name, shape=(1, 4))
    description = spec.ModelSpec(name="m", modalities=(modality,), outputs=(spec.ValuesOutput(labels=("v",)),))
    with pytest.raises(ModelError, match="unusable name"):
        split(FusionModel(description, {name: Double()}, Sum()))
