"""The training loop learns, is deterministic and stops."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from edgefuse.bundle import spec
from edgefuse.datasets.sample import Sample
from edgefuse.errors import DataError
from edgefuse.models.digits.training import TrainSettings, collate, fit, make_deterministic
from edgefuse.models.fusion import FusionModel

SETTINGS = TrainSettings(epochs=4, epoch_items=64, batch=16, learning_rate=0.02, patience=1, max_epochs=8, threads=1)


class SumFusion(nn.Module):
    """Add two features under their mask."""

    def forward(self, features: Mapping[str, Tensor], present: Tensor) -> Tensor:
        """Return logits [B, 2]."""
        return features["left"] * present[:, :1] + features["right"] * present[:, 1:]


@pytest.fixture(autouse=True)
def restore_torch() -> Iterator[None]:
    """Undo what `make_deterministic` sets for the whole process."""
    threads = torch.get_num_threads()
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)


def build() -> FusionModel:
    """Build a model of two linear encoders."""
    modalities = tuple(spec.tensor(name, shape=(1, 4), optional=True) for name in ("left", "right"))
    outputs = (spec.ClassOutput(labels=("no", "yes")),)
    encoders = {name: nn.Linear(4, 2) for name in ("left", "right")}
    return FusionModel(spec.ModelSpec(name="tiny", modalities=modalities, outputs=outputs), encoders, SumFusion())


def samples(count: int) -> list[Sample]:
    """Make samples whose sign both modalities show."""
    rng = np.random.default_rng(count)
    made: list[Sample] = []
    for index in range(count):
        target = index % 2
        inputs = {name: (rng.normal(size=4) + 2 * target - 1).astype(np.float32) for name in ("left", "right")}
        made.append(Sample(inputs=inputs, target=target))
    return made


def prepare(sample: Sample) -> Mapping[str, npt.NDArray[Any]]:
    """Give the arrays a batch of one."""
    return {f"{name}.values": np.asarray(value)[None] for name, value in sample.inputs.items()}


def run(data: Sequence[Sample]) -> tuple[FusionModel, list[float]]:
    """Train from scratch and return the model and its losses."""
    make_deterministic(SETTINGS)
    model = build()
    curve = fit(model, data, [collate(samples(50), prepare)], prepare, SETTINGS)
    return model, [point.loss for point in curve]


def test_training_learns_every_subset_and_stops() -> None:
    make_deterministic(SETTINGS)
    model = build()
    seen: list[int] = []
    validation = [collate(samples(50), prepare)]
    curve = fit(model, samples(128), validation, prepare, SETTINGS, progress=lambda point: seen.append(point.epoch))
    assert seen == [point.epoch for point in curve]
    assert SETTINGS.epochs <= len(curve) <= SETTINGS.max_epochs
    assert set(curve[-1].accuracy) == {"left+right", "left", "right"}
    assert max(point.mean_accuracy for point in curve) > 0.9
    assert not model.training


def test_training_twice_gives_the_same_weights() -> None:
    first, losses = run(samples(128))
    second, again = run(samples(128))
    assert losses == again
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])


def test_empty_batch_is_refused() -> None:
    with pytest.raises(DataError, match="a batch has no samples: got none, expected at least one"):
        collate([], prepare)
