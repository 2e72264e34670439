"""Unlabelled items: they travel through a compile, and correct the drops that it searches by."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import edgefuse
from edgefuse.bundle import spec
from edgefuse.compiler.metrics.named import metrics_of
from edgefuse.compiler.model.samples import group_number
from edgefuse.compiler.model.splits import load_split
from edgefuse.compiler.recipe.factory import call_factory
from edgefuse.compiler.recipe.recipe import load
from edgefuse.compiler.report.encoding import parse
from edgefuse.datasets.cache import open_cache
from edgefuse.datasets.sample import Sample, Splits
from edgefuse.errors import DataError
from edgefuse.models.fusion import FusionModel

from .conftest import Compiled

SPEC = spec.ModelSpec(
    name="one",
    modalities=(spec.tensor("sensor", shape=(1, 2)),),
    outputs=(spec.ClassOutput(labels=("a", "b")),),
)


def sample(target: Any = None, group: Any = None) -> Sample:
    return Sample({"sensor": np.ones((1, 2), np.float32)}, target, group)


def test_items_without_targets_and_of_groups_are_kept(tmp_path: Path) -> None:
    unlabelled = [sample(group="a"), sample(), sample(group="a"), sample(group=1), sample(group="1"), sample()]
    data = Splits([sample(), sample(1)], [sample(0, "a"), sample(1, "b")], (), "g", unlabelled=unlabelled)
    found = {
        name: load_split(name, data, SPEC, metrics_of(SPEC, tmp_path), {}, open_cache(tmp_path), lambda *_: None)
        for name in ("calibration", "validation", "unlabelled")
    }
    assert [len(split) for split in found.values()] == [2, 2, 6]
    assert found["validation"].targets["logits"].values.tolist() == [0, 1]
    assert not found["unlabelled"].targets
    groups = found["unlabelled"].groups.tolist()
    assert groups[0] == groups[2] == found["validation"].groups[0]
    assert len({*groups}) == 5
    assert not {*groups[1:2], *groups[5:]} & {*found["calibration"].groups.tolist()}


def test_a_group_is_a_name_or_a_number() -> None:
    assert group_number("test", 0, np.int64(3)).tolist() == group_number("validation", 1, 3).tolist()
    with pytest.raises(DataError, match="the group of sample 3 of 'test' is of another type: got list"):
        group_number("test", 3, ["a"])


def test_drops_are_corrected_with_unlabelled_items(compiled: Compiled, tmp_path: Path) -> None:
    """The labels are the reference's own answers: what is expected to be lost is the share of answers that differ."""
    model, splits = call_factory(compiled.recipe, "pair:build"), call_factory(compiled.recipe, "pair:data")
    whole = [replace(one, target=None) for one in splits.train[:150]]
    unlabelled = [*whole[:100], *(replace(one, inputs={"sensor": one.inputs["sensor"]}) for one in whole[100:])]
    said = load(compiled.recipe).search
    keywords: Any = {name: getattr(said, name) for name in ("max_drop", "subsets", "max_fusion_passes")}
    made = edgefuse.compile(
        model,
        model.spec,
        replace(splits, unlabelled=unlabelled),
        out=tmp_path / "out",
        cache=shutil.copytree(compiled.cache, tmp_path / "cache"),
        targets=["onnx"],
        **keywords,
    )
    report = parse(json.loads(made.report_json.read_bytes()))
    assert any("also on 150 unlabelled items" in sentence for sentence in report.method)
    labelled = len(splits.validation)
    assert report.search
    for subset, count in (("image+sensor", labelled + 100), ("sensor", labelled + 150), ("image", labelled + 100)):
        drops = [one.drop[subset] for one in report.search.judged]
        small = np.array([drop for drop in drops if drop < 0.03]) * count  # the labelled items refute none of these
        assert small == pytest.approx(np.rint(small), abs=0.05), subset  # of answers that are a tie, nothing is lost
    assert any(drop * labelled % 1 > 1e-3 for one in report.search.judged for drop in one.drop.values())


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(32, 160), nn.ReLU(), nn.Linear(160, 32))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.layers(x)
        return found


class Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(32, 4)

    def forward(self, features: Mapping[str, Tensor], present: Tensor) -> Tensor:
        found: Tensor = self.last(features["x"])
        return found


@pytest.mark.parametrize(
    ("output", "unit", "budget"),
    [
        (spec.ClassOutput(labels=tuple("abcd"), metric="agreement"), 1.0, 0.3),
        (spec.ValuesOutput(labels=tuple("abcd"), metric="relative_error"), 0.0, 0.2),
    ],
)
def test_data_without_any_label_compile(output: spec.Output, unit: float, budget: float, tmp_path: Path) -> None:
    """The reference is what answers are held against: nothing can be nearer to it than itself."""
    torch.manual_seed(0)
    described = spec.ModelSpec(name="bare", modalities=(spec.tensor("x", shape=(1, 32)),), outputs=(output,))
    model = FusionModel(described, {"x": Encoder()}, Head()).eval()
    rng = np.random.default_rng(0)
    items = [Sample({"x": rng.standard_normal((1, 32), np.float32)}) for _ in range(136)]
    made = edgefuse.compile(
        model,
        described,
        Splits(items[:16], items[16:76], items[76:], "bare"),
        out=tmp_path / "out",
        cache=tmp_path / "cache",
        targets=["onnx"],
        max_drop=budget,
        max_fusion_passes=3,
        schemes={"x_encoder": ["dynamic_wi8_af32"], "fusion": ["float"]},
    )
    report = parse(json.loads(made.report_json.read_bytes()))
    assert made.within_budget
    assert report.reference.accuracy == {"x": unit}
    (bundle,) = report.bundles
    found = {rung.stages["x_encoder"].scheme: rung.accuracy["x"] for rung in bundle.rungs}
    assert all(abs(value - unit) < (1e-5 if scheme == "float" else budget) for scheme, value in found.items())
    assert "dynamic_wi8_af32" in found
    assert isinstance(output, spec.ClassOutput) or found["dynamic_wi8_af32"] > 1e-4  # so few answers need not flip
