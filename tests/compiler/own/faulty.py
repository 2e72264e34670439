"""Factories of a user who makes mistakes, around the model and the data of `pair`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pair  # type: ignore[import-not-found]  # lies beside this file, as beside a recipe
import torch
from torch import Tensor, nn

from edgefuse.bundle import spec
from edgefuse.datasets import Sample, Splits, samples
from edgefuse.models.fusion import FusionModel

COUNT = 6


def whole(**changed: Any) -> Splits:
    """A small data set without a mistake, but for the splits that are given."""
    rng = np.random.default_rng(0)
    sample = Sample(
        {"image": rng.integers(0, 256, (16, 16), np.uint8), "sensor": rng.standard_normal((1, 9, 8), np.float32)}, 1
    )
    return Splits(
        **{**dict.fromkeys(("calibration", "validation", "test"), [sample] * COUNT), **changed}, digest="whole"
    )


def with_sample(index: int, split: str = "calibration", target: Any = 1, **inputs: Any) -> Splits:
    """A data set with one sample that differs."""
    splits = whole()
    good: Sample = splits.calibration[0]
    parts = [good] * COUNT
    parts[index] = replace(good, inputs={**good.inputs, **inputs}, target=target)
    changed: dict[str, Any] = {split: parts}
    return replace(splits, **changed)


def fails() -> Splits:
    raise KeyError("labels.csv")


def no_splits() -> tuple[list[Sample], list[Sample]]:
    return [], []


def empty_split() -> Splits:
    return whole(test=[])


def no_samples() -> Splits:
    return whole(calibration=[({"image": None}, 1)])


def label_out_of_range() -> Splits:
    return with_sample(3, target=4)


def label_in_words() -> Splits:
    return with_sample(3, target="north")


def shorter_column() -> Splits:
    sample = whole().calibration[0]
    images, sensors = [sample.inputs["image"]] * COUNT, [sample.inputs["sensor"]] * (COUNT - 1)
    return whole(calibration=samples([1] * COUNT, image=images, sensor=sensors))


def zipped_strictly() -> Splits:
    return whole(calibration=list(zip([1, 2], [1], strict=True)))


def without_sensor() -> Splits:
    image = whole().calibration[0].inputs["image"]
    return whole(calibration=samples([1] * COUNT, image=[image] * COUNT))


def never_together() -> Splits:
    inputs = whole().calibration[0].inputs
    halves = samples([1, 1], image=[inputs["image"], None], sensor=[None, inputs["sensor"]])
    return whole(validation=halves)


def unknown_modality() -> Splits:
    return with_sample(1, smell=np.zeros(3))


def wrong_shape() -> Splits:
    return with_sample(2, sensor=np.zeros((9, 8), np.float32))


def wrong_dtype() -> Splits:
    return with_sample(2, sensor=np.zeros((1, 9, 8)))


def not_a_number() -> Splits:
    return with_sample(5, "test", sensor=np.full((1, 9, 8), np.nan, np.float32))


def black_pictures() -> Splits:
    return with_sample(0, "validation", image=np.zeros((16, 16), np.uint8))


def nan_target() -> Splits:
    return with_sample(4, target=float("nan"))


class Contrast(nn.Module):
    """Divides by the brightest pixel, which is 0 in a black picture."""

    def forward(self, pixels: Tensor) -> Tensor:
        x = pixels.to(torch.float32).flatten(1)
        return x / x.amax(dim=1, keepdim=True)


class Joined(nn.Module):
    """Features side by side, then one layer."""

    def __init__(self, features: int, outputs: int) -> None:
        super().__init__()
        self.layer = nn.Linear(features, outputs)

    def forward(self, features: Mapping[str, Tensor], present: Tensor) -> Tensor:
        logits: Tensor = self.layer(torch.cat([*features.values(), present], dim=1))
        return logits


def contrast() -> FusionModel:
    model = pair.build()
    encoders = {"image": Contrast(), "sensor": model.encoders["sensor"]}
    return FusionModel(model.spec, encoders, Joined(256 + 32 + 2, 4)).eval()


def temperature(metric: str = "mae") -> FusionModel:
    model = pair.build()
    outputs = (spec.ValuesOutput(labels=("celsius",)),)
    changed = msgspec.structs.replace(model.spec, outputs=outputs, metric=metric)
    return FusionModel(changed, dict(model.encoders.items()), Joined(66, 1)).eval()


def temperature_by_accuracy() -> FusionModel:
    return temperature("accuracy")


def temperature_by_luck() -> FusionModel:
    return temperature("luck")


class UnspeakableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


class Odd(list[Any]):
    """A split that cannot be counted, or read."""

    def __init__(self, items: Any, length: int | None = None) -> None:
        super().__init__(items)
        self._length = length

    def __len__(self) -> int:
        return super().__len__() if self._length is None else self._length

    def __getitem__(self, index: Any) -> Any:
        if index == 2:
            raise OSError("disk gone")
        return super().__getitem__(index)


def unspeakable() -> Splits:
    raise UnspeakableError


def not_even_an_exception() -> Splits:
    raise BaseException("stop it")


def a_generator() -> Splits:
    return replace(whole(), calibration=(item for item in whole().calibration))  # type: ignore[arg-type]


def negative_length() -> Splits:
    return replace(whole(), test=Odd(whole().test, -1))


def unreadable_item() -> Splits:
    return replace(whole(), calibration=Odd(whole().calibration))


def no_digest() -> Splits:
    return replace(whole(), digest="")


def odd_digest() -> Splits:
    return replace(whole(), digest="\ud800")


def elsewhere() -> Splits:
    os.chdir("/")
    return whole(calibration=[])
