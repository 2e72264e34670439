"""Inputs have the values that the data have and the types that modules want, whatever a model is written as."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - as everyone calls it
from torch import Tensor, nn

from edgefuse.bundle import spec
from edgefuse.bundle.spec import EmbeddingOutput, TensorSpec, in_files, tensor, tensors
from edgefuse.bundle.wiring import check_model, check_stages
from edgefuse.errors import ModelError
from edgefuse.models import FusionModel
from edgefuse.stages.examples import chained_feeds, example_feeds
from edgefuse.stages.explicit import split
from edgefuse.stages.found import find
from edgefuse.stages.running import run_torch
from edgefuse.stages.values import observed
from tests.stages.found.models import SOUND, described

PRESSURE = tensor("pressure", shape=(1, 12, 8))
KIND = tensor("kind", shape=(1, 4), dtype="int64")


class Logarithms(nn.Module):
    """A logarithm of what is positive, and ids without an embedding that would tell how many there are."""

    def __init__(self) -> None:
        super().__init__()
        self.pressure, self.table = nn.Linear(8, 64), nn.Parameter(torch.randn(30, 64))
        self.kind, self.head = nn.Linear(94, 64), nn.Linear(128, 4)

    def forward(self, pressure: Tensor, kind: Tensor) -> Tensor:
        felt = self.pressure(torch.log(pressure)).relu().mean(1)
        known = torch.cat([F.embedding(kind, self.table), F.one_hot(kind, 30)], 2)
        y: Tensor = self.head(torch.cat([felt, self.kind(known).mean(1)], 1))
        return y


def samples() -> list[Mapping[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [
        {
            "pressure.values": rng.uniform(0.5, 9, (1, 12, 8)).astype(np.float32),
            "kind.values": rng.integers(0, 30, (1, 4), np.int32),
        }
        for _ in range(12)
    ]


def test_generated_inputs_look_like_the_data_when_stages_are_found() -> None:
    described_ = described(PRESSURE, KIND)
    with pytest.raises(ModelError, match="is not finite on generated inputs"):
        find(Logarithms(), described_)
    made = find(Logarithms(), described_, observed(samples()))
    assert [stage.spec.name for stage in made.stages] == ["pressure_encoder", "kind_encoder", "fusion"], made.notes
    feeds = next(chained_feeds(made.stages))
    assert feeds["pressure_encoder"]["values"].min() >= 0.5
    assert feeds["kind_encoder"]["values"].max() > 1


class Gains(nn.Module):
    """Takes logarithms of features that are positive."""

    def forward(self, features: dict[str, Tensor], present: Tensor) -> Tensor:
        return torch.log(features["sound"]) + present[:, :1]


class Power(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 4)

    def forward(self, sound: Tensor) -> Tensor:
        y: Tensor = F.softplus(self.layer(sound)).mean(1) + 0.1
        return y


def test_a_fusion_that_is_named_gets_the_features_that_encoders_give() -> None:
    stages = split(FusionModel(described(SOUND), {"sound": Power()}, Gains()))
    assert [stage.spec.name for stage in stages] == ["sound_encoder", "fusion"]


IDS = TensorSpec(name="ids", dtype="int64", shape=(1, 6))  # type: ignore[arg-type] # what users write
MASK = TensorSpec(name="mask", dtype="bool", shape=(1, 6))  # type: ignore[arg-type]


class Words(nn.Module):
    """Wants int64 ids and truth values: it inverts them, which numbers would take and give something else."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(20, 8)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        y: Tensor = self.layer(F.one_hot(ids, 20).to(torch.float32)) * (~mask).to(torch.float32)[:, :, None]
        return y.sum(1)


class Named(nn.Module):
    def forward(self, features: dict[str, Tensor], present: Tensor) -> Tensor:
        return features["words"]


class Keywords(nn.Module):
    def __init__(self, words: Words) -> None:
        super().__init__()
        self.words = words

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        y: Tensor = self.words(ids, mask)
        return y


class Positions(Keywords):
    def forward(self, *given: Tensor) -> Tensor:
        y: Tensor = self.words(*given)
        return y


@pytest.mark.parametrize("way", ["fusion", "keywords", "positions"])
def test_a_spec_may_say_int64_and_bool_and_files_have_int32(way: str) -> None:
    torch.manual_seed(0)
    words = Words().eval()
    told = described(tensors("words", IDS, MASK), outputs=(EmbeddingOutput(size=8),))
    model = {"fusion": FusionModel(told, {"words": words}, Named()), "keywords": Keywords(words)}.get(way)
    made = find(model or Positions(words), told)
    assert made.spec == in_files(told)
    check_model(made.spec)
    check_stages(made.spec, [stage.spec for stage in made.stages])
    first = made.stages[0]
    assert [port.tensor.dtype for port in first.spec.inputs] == ["int32", "int32"]
    ids, mask = np.array([[1, 5, 2, 7, 19, 3]], np.int32), np.array([[1, 0, 1, 1, 0, 0]], np.int32)
    feeds = dict(zip((port.tensor.name for port in first.spec.inputs), (ids, mask), strict=True))
    (answer,) = run_torch(first, feeds).values()
    expected = words(torch.from_numpy(ids).to(torch.int64), torch.from_numpy(mask) != 0).detach().numpy()
    np.testing.assert_allclose(np.asarray(answer, np.float32), expected, atol=1e-6)
    inputs = {"words.ids": torch.from_numpy(ids), "words.mask": torch.from_numpy(mask)}
    given = (inputs, torch.ones(1, 1)) if way == "fusion" else tuple(inputs.values())
    np.testing.assert_allclose(made.module(*given).detach().numpy(), expected, atol=1e-6)


def test_int64_is_int32_at_once_and_a_mask_is_one_for_the_module() -> None:
    assert tensor("ids", shape=(1, 6), dtype="int64").tensors[0].dtype == "int32"
    assert tensors("words", IDS).tensors[0].dtype == "int32"
    mask = described(spec.tensor("mask", shape=(1, 6), dtype="bool"))
    assert str(mask.modalities[0].tensors[0].dtype) == "bool"
    assert in_files(mask).modalities[0].tensors[0].dtype == "int32"


class CrossAttention(nn.Module):
    """Regions attend to words and words to regions, under a mask of what is padding, which crosses to fusion."""

    def __init__(self) -> None:
        super().__init__()
        self.region, self.word = nn.Sequential(nn.Linear(24, 64), nn.ReLU(), nn.Linear(64, 16)), nn.Embedding(50, 16)
        self.read = nn.GRU(16, 16, batch_first=True)
        self.to_words = nn.MultiheadAttention(16, 2, batch_first=True)
        self.head = nn.Linear(16, 4)

    def forward(self, regions: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        padding = attention_mask == 0
        seen, words = self.region(regions), self.read(self.word(input_ids))[0]
        found, _ = self.to_words(seen, words, words, key_padding_mask=padding)
        y: Tensor = self.head(found.mean(1))
        return y


def test_a_mask_that_crosses_hides_no_more_than_the_data_do() -> None:
    words = tensors(
        "text", *(TensorSpec(name=name, dtype="int32", shape=(1, 6)) for name in ("input_ids", "attention_mask"))
    )
    rng = np.random.default_rng(0)
    data = [
        {
            "regions.values": rng.standard_normal((1, 5, 24), np.float32),
            "text.input_ids": rng.integers(0, 50, (1, 6), np.int32),
            "text.attention_mask": (np.arange(6) < rng.integers(2, 7)).astype(np.int32)[None],
        }
        for _ in range(40)
    ]
    made = find(CrossAttention().eval(), described(tensor("regions", shape=(1, 5, 24)), words), observed(data))
    fusion = made.stages[-1]
    (mask,) = [port.tensor.name for port in fusion.spec.inputs if port.tensor.shape == (1, 6)]
    for feeds in example_feeds(fusion, count=20):
        assert set(np.unique(feeds[mask])) <= {0.0, 1.0}
        assert not feeds[mask][0, :2].any()
        assert np.isfinite(run_torch(fusion, feeds)["logits"]).all()
