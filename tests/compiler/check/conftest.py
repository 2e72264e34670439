"""A user's models with something wrong, and checks of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgefuse.compiler.check.checking import check
from edgefuse.compiler.check.record import Check
from edgefuse.compiler.model.opening import take_apart
from edgefuse.compiler.model.subject import Model
from edgefuse.compiler.recipe import recipe as recipes

MODULE = '''
"""Two small encoders and a fusion; what is wrong with one of them is said by the factory's name."""

from dataclasses import replace

import numpy as np
import torch
from torch import nn

from edgefuse.bundle import spec
from edgefuse.datasets import Sample, Splits
from edgefuse.models import FusionModel
from msgspec.structs import replace as replace_spec

LABELS = ("still", "walking", "running")


class Encoder(nn.Module):
    def __init__(self, wrong=""):
        super().__init__()
        self.first, self.second, self.wrong = nn.Linear(6, 16), nn.Linear(16, 8), wrong

    def extra_repr(self):  # tells the cache that this is another encoder
        return self.wrong

    def forward(self, values):
        x = torch.relu(self.first(values))
        if self.wrong == "eigenvalues":
            return torch.linalg.eigvals(self.second(x)[:, :8]).real
        if self.wrong == "determinant":
            return torch.linalg.det(x[:, :, :8])[:, None] * self.second(x).mean(1)
        if self.wrong == "batch mean":
            x = x - x.mean(0, keepdim=True).detach()
        if self.wrong == "one by one":
            x = x.reshape(1, 8, 16)
        return self.second(x).mean(1)


class Padded(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 8)

    def forward(self, values, length):
        return self.layer(values).mean(1)


class AtLeast(nn.Module):
    """Takes five steps or more; of the steps there are, or of those that `length` says."""

    def __init__(self, by_length):
        super().__init__()
        self.layer, self.by_length = nn.Conv1d(6, 8, 5), by_length

    def forward(self, values, length):
        x = values[:, : int(length[0])] if self.by_length else values
        return self.layer(x.transpose(1, 2)).mean(2)


class Windowed(nn.Module):
    """Five steps at a time, of which there may be fewer."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv1d(6, 8, 5)

    def forward(self, values):
        return self.layer(values.transpose(1, 2)).mean(2)


class ShortBatch(Windowed):
    """Mixes the samples of a batch where they are short."""

    def forward(self, values):
        if values.shape[1] < 8:
            values = values - values.mean(0)
        return self.layer(torch.nn.functional.pad(values, (0, 0, 2, 2)).transpose(1, 2)).mean(2)


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(50, 8)

    def forward(self, values):
        return self.table(values).mean(1)


class Fusion(nn.Module):
    def __init__(self, names):
        super().__init__()
        self.names, self.layer = names, nn.Linear(8 * len(names), 3)

    def forward(self, features, present):
        return self.layer(torch.cat([features[name] for name in self.names], 1))


class Shares(Fusion):
    """Divides by nothing where one modality is alone."""

    def forward(self, features, present):
        return super().forward(features, present) / (present.sum(1, keepdim=True) - 1)


def model(encoders, modalities):
    described = spec.ModelSpec(name="moves", modalities=modalities, outputs=(spec.ClassOutput(labels=LABELS),))
    made = FusionModel(described, encoders, Fusion(tuple(encoders))).eval()
    torch.manual_seed(0)  # the same weights each time, also those that the encoders drew before
    for part in made.modules():
        if hasattr(part, "reset_parameters"):
            part.reset_parameters()
    return made


MOTION, WORDS = spec.tensor("motion", shape=(1, 8, 6)), spec.tensor("words", shape=(1, 5), dtype="int32")


def sound():
    return model({"motion": Encoder(), "words": Words()}, (MOTION, WORDS))


def eigenvalues():
    return model({"motion": Encoder("eigenvalues"), "words": Words()}, (MOTION, WORDS))


def determinant():
    return model({"motion": Encoder("determinant"), "words": Words()}, (MOTION, WORDS))


def batch_mean():
    return model({"motion": Encoder("batch mean"), "words": Words()}, (MOTION, WORDS))


def one_by_one():
    return model({"motion": Encoder("one by one"), "words": Words()}, (MOTION, WORDS))


def padded():
    motion = spec.tensor("motion", shape=(1, spec.Bounded(max=8), 6), length=True)
    return model({"motion": Padded(), "words": Words()}, (motion, WORDS))


def at_least():
    motion = spec.tensor("motion", shape=(1, spec.Bounded(max=8), 6), length=True)
    return model({"motion": AtLeast(False), "words": Words()}, (motion, WORDS))


def at_least_by_length():
    motion = spec.tensor("motion", shape=(1, 8, 6), length=True)
    return model({"motion": AtLeast(True), "words": Words()}, (motion, WORDS))


def shares():
    made = sound()
    optional = spec.tensor("words", shape=(1, 5), dtype="int32", optional=True)
    described = replace_spec(made.spec, modalities=(MOTION, optional))
    return FusionModel(described, dict(made.encoders), Shares(("motion", "words"))).eval()


def windowed():
    motion = spec.tensor("motion", shape=(1, spec.Bounded(max=8), 6))
    return model({"motion": Windowed(), "words": Words()}, (motion, WORDS))


def short_batch():
    motion = spec.tensor("motion", shape=(1, spec.Bounded(max=8), 6))
    return model({"motion": ShortBatch(), "words": Words()}, (motion, WORDS))


def items(count, seed, **changed):
    rng = np.random.default_rng(seed)
    return [
        Sample(
            {"motion": rng.standard_normal((1, 8, 6), np.float32), "words": rng.integers(0, 50, (1, 5), np.int32)}
            | {name: make(rng) for name, make in changed.items()},
            number % 3,
        )
        for number in range(count)
    ]


def data():
    parts = {"calibration": items(10, 1), "validation": items(20, 2), "test": items(20, 3), "train": items(9, 4)}
    return Splits(**parts, digest="moves")


def short():
    made = {"motion": lambda rng: rng.standard_normal((1, int(rng.integers(2, 9)), 6), np.float32)}
    parts = {name: items(12, seed, **made) for seed, name in enumerate(("calibration", "validation", "test"))}
    return Splits(**parts, digest="moves-short")


def long():
    made = {"motion": lambda rng: rng.standard_normal((1, int(rng.integers(5, 9)), 6), np.float32)}
    parts = {name: items(12, seed, **made) for seed, name in enumerate(("calibration", "validation", "test"))}
    return Splits(**parts, digest="moves-long")


def many_faults():
    calibration, validation, test = items(10, 1), items(20, 2), items(20, 3)
    calibration[2] = replace(calibration[2], target=7)
    for number in (4, 5, 9):
        calibration[number] = replace(calibration[number], target=3 + number)
    broken = np.full((1, 8, 6), np.nan, np.float32)
    validation[3] = Sample({**validation[3].inputs, "motion": broken, "words": np.zeros((1, 4), np.int32)}, -1)
    test[0] = "nothing"
    return Splits(calibration=calibration, validation=validation, test=test, digest="")


def beyond_the_table():
    test = items(20, 3)
    test[17] = Sample({**test[17].inputs, "words": np.full((1, 5), 50, np.int32)}, 0)
    return Splits(calibration=items(10, 1), validation=items(20, 2), test=test, digest="moves-50")


def odd():
    calibration = items(10, 1, words=lambda rng: np.ones((1, 5), np.int32))
    validation = [item for item in items(20, 2) if item.target < 2]
    calibration[3], validation[4] = (replace(item, group="pump 7") for item in (calibration[3], validation[4]))
    return Splits(calibration=calibration, validation=validation, test=[*items(20, 3), *validation[:2]], digest="odd")
'''

RECIPE = """
[model]
factory = "moves_model:{model}"
[data]
factory = "moves_model:{data}"
[compile]
targets = ["onnx"]
[search]
max_drop = 0.2
"""


@pytest.fixture(scope="session")
def recipe_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Write a recipe for a factory and data of that module, with more sections behind it."""

    def write(model: str = "sound", data: str = "data", more: str = "") -> Path:
        folder = tmp_path_factory.mktemp("moves")
        (folder / "moves_model.py").write_text(MODULE, encoding="utf-8")
        (folder / "recipe.toml").write_text(RECIPE.format(model=model, data=data) + more, encoding="utf-8")
        return folder / "recipe.toml"

    return write


@pytest.fixture(autouse=True)
def fresh_module() -> Iterator[None]:
    """Let every recipe import its own copy of the module."""
    yield
    sys.modules.pop("moves_model", None)


@pytest.fixture
def opened(recipe_of: Callable[..., Path]) -> Callable[..., Model]:
    """Take a model of that module apart."""

    def open_model(model: str = "sound", data: str = "data", more: str = "") -> Model:
        path = recipe_of(model, data, more)
        return take_apart(path, recipes.load(path))

    return open_model


@pytest.fixture(scope="session")
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for all checks: most of them have the same stages."""
    return tmp_path_factory.mktemp("check-cache")


@pytest.fixture
def checked(recipe_of: Callable[..., Path], cache_folder: Path) -> Callable[..., Check]:
    """Check a model of that module."""

    def run(model: str = "sound", data: str = "data", more: str = "", targets: tuple[str, ...] = ("onnx",)) -> Check:
        return check(recipe_of(model, data, more), targets=targets, cache=cache_folder)

    return run
