"""The reference model `retrieval`: maps into one space, their training, and ranks; needs no package."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from edgefuse.models.assistant.training import Embeddings
from edgefuse.models.retrieval.model import Retrieval, is_trained, trained_state
from edgefuse.models.retrieval.ranking import chance, figures, interval, ranks
from edgefuse.models.retrieval.training import TrainSettings, begin, fit, points

STAMPS, VIEWS = 20, 3
QUICK = TrainSettings(steps=40, classes=64)


@pytest.fixture(scope="module")
def model() -> Retrieval:
    torch.manual_seed(0)
    return Retrieval().eval()


def seen(seed: int = 0) -> Embeddings:
    """Return views of made-up stamps, as encoders might give them."""
    rng = torch.Generator().manual_seed(seed)
    centres = {name: torch.randn(STAMPS, *shape, generator=rng) for name, shape in SHAPES.items()}
    stamps = torch.arange(STAMPS).repeat(VIEWS)
    inputs = {
        name: found[stamps] + 0.1 * torch.randn(len(stamps), *found.shape[1:], generator=rng)
        for name, found in centres.items()
    }
    return Embeddings(inputs, stamps, torch.zeros(len(stamps), dtype=torch.int64))


SHAPES = {"image": (1280,), "audio": (96, 16), "text": (384,)}


def test_every_modality_becomes_a_point_of_length_one(model: Retrieval) -> None:
    for name, found in points(model, seen()).items():
        assert found.shape == (STAMPS * VIEWS, 256), name
        assert found.norm(dim=1) == pytest.approx(torch.ones(STAMPS * VIEWS), abs=1e-5)


def test_names_alone_put_a_picture_of_a_class_at_its_name(model: Retrieval) -> None:
    names = torch.randn(1000, 384, generator=torch.Generator().manual_seed(1))
    begin(model, names)
    told = model.texts.decide(names).detach()
    mapped = model.pictures.named.weight.detach().T
    assert (mapped @ told.T).argmax(dim=1).equal(torch.arange(1000))


def test_training_brings_the_views_of_a_stamp_together_alike_each_time() -> None:
    data, names = seen(), torch.randn(1000, 384, generator=torch.Generator().manual_seed(1))
    states = []
    for _ in range(2):
        torch.manual_seed(0)
        made = Retrieval()
        begin(made, names)
        losses = fit(made, data, data.stamps, names, QUICK)
        states.append(trained_state(made))
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    assert not made.training
    assert all(torch.equal(states[0][name], value) for name, value in states[1].items())
    found = points(made, data)
    things = [str(stamp) for stamp in range(STAMPS)]
    image, text = (found[name][:STAMPS].numpy() for name in ("image", "text"))
    assert figures(ranks(text, things, image, things))["recall@1"] > 0.5


def test_a_file_of_what_was_trained_fits_a_model_with_pretrained_parts(model: Retrieval, tmp_path: Path) -> None:
    kept = trained_state(model)
    assert not [name for name in kept if "backbone" in name or "classifier" in name]
    assert all(is_trained(name) for name in kept)
    save_file(kept, tmp_path / "maps.safetensors")
    assert (tmp_path / "maps.safetensors").stat().st_size < 4_000_000
    Retrieval().load_state_dict(kept)


def test_ranks_count_ties_against_the_right_one() -> None:
    gallery = np.array([[1, 0], [1, 0], [0, 1]], np.float32)
    found = ranks(np.array([[1, 0], [0, 1]], np.float32), ["a", "c"], gallery, ["a", "b", "c"])
    assert found.tolist() == [2, 1]
    assert figures(found) == {"recall@1": 0.5, "recall@5": 1.0, "recall@10": 1.0, "mean_rank": 1.5}
    assert chance(4) == {"recall@1": 0.25, "recall@5": 1.0, "recall@10": 1.0, "mean_rank": 2.5}


def test_queries_for_one_thing_are_drawn_together() -> None:
    found = np.array([1] * 50 + [9] * 50)
    alone = interval(found, [str(n) for n in range(100)], 1)
    together = interval(found, ["a"] * 50 + ["b"] * 50, 1)
    assert 0.38 < alone[0] < 0.5 < alone[1] < 0.62
    assert together == (0.0, 1.0)
