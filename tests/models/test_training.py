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
from edgefuse.models.digits.training import TrainSettings, fit
from edgefuse.models.fusion import FusionModel
from edgefuse.models.reference import loop
from edgefuse.models.reference.batches import collate
from edgefuse.models.reference.loop import make_deterministic

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
    make_deterministic(SETTINGS.seed, SETTINGS.threads)
    model = build()
    curve = fit(model, data, [collate(samples(50), prepare)], prepare, SETTINGS)
    return model, [point.loss for point in curve]


def test_training_learns_every_subset_and_stops() -> None:
    make_deterministic(SETTINGS.seed, SETTINGS.threads)
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


def test_each_loss_is_computed_after_the_step_before_it_and_each_epoch_after_it_was_told() -> None:
    weight = nn.Parameter(torch.tensor([2.0]))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        torch.optim.SGD([weight]), 0.5, total_steps=3, cycle_momentum=False, div_factor=10, final_div_factor=10
    )
    step = loop.Step([weight], schedule, gradient_norm=0.1)
    events: list[str] = []
    weights: list[float] = []

    def losses(epoch: int) -> Iterator[Tensor]:
        for _ in range(2):
            events.append(f"loss of {epoch}")
            weights.append(weight.item())
            yield 3 * weight.sum()

    def epochs() -> Iterator[int]:
        for epoch in (1, 2):
            events.append(f"epoch {epoch}")
            yield epoch

    curve = loop.fit(epochs(), losses, step, lambda epoch, loss, _: (epoch, loss), lambda point: events.append("told"))
    assert events == [
        *("epoch 1", "loss of 1", "loss of 1", "told"),
        *("epoch 2", "loss of 2", "loss of 2", "told"),
    ]
    assert [epoch for epoch, _ in curve] == [1, 2]
    assert [loss for _, loss in curve] == pytest.approx([3 * sum(weights[:2]) / 2, 3 * sum(weights[2:]) / 2])
    assert sorted(weights, reverse=True) == weights
    last = weights[-1] - weight.item()
    assert last == pytest.approx(0.1 * schedule.get_last_lr()[0], rel=1e-2), "a clipped gradient at the last rate"
