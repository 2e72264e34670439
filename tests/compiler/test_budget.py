"""What may be lost of the metric: a number in its own unit, or a share of what the reference reaches."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgefuse.compiler import compile
from edgefuse.compiler.check.checking import check
from edgefuse.compiler.model.budget import Budget
from edgefuse.compiler.recipe import max_drop
from edgefuse.compiler.recipe.max_drop import MaxDrop
from edgefuse.compiler.report.encoding import parse
from edgefuse.compiler.search import Drops, Search, StageFigure, SubsetDrop
from edgefuse.errors import RecipeError

RECIPE = Path("recipe.toml")

MODULE = """
import numpy as np
import torch
from torch import nn

from edgefuse.bundle import spec
from edgefuse.datasets import Sample, Splits
from edgefuse.models import FusionModel


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 64))

    def forward(self, x):
        return self.layers(x)


class Millimetres(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(128, 1)

    def forward(self, features, present):
        return 3000 * self.layer(torch.cat([features["left"], features["right"]], 1))


def build():
    torch.manual_seed(0)
    sides = (spec.tensor("left", shape=(1, 64)), spec.tensor("right", shape=(1, 64), optional=True))
    output = spec.ValuesOutput(labels=("mm",))
    described = spec.ModelSpec(name="mm", modalities=sides, outputs=(output,), metric="mse")
    return FusionModel(described, {"left": Encoder(), "right": Encoder()}, Millimetres())


def data(noise=200.0):
    model, rng = build().eval(), np.random.default_rng(0)
    items = []
    for _ in range(120):
        inputs = {name: rng.standard_normal((1, 64), np.float32) for name in ("left", "right")}
        features = {name: model.encoders[name](torch.from_numpy(x)) for name, x in inputs.items()}
        with torch.no_grad():
            answer = float(model.fusion(features, None)[0, 0])
        items.append(Sample(inputs, np.float32([answer + noise * rng.normal()])))
    return Splits(calibration=items[:20], validation=items[20:70], test=items[70:], digest=f"mm {noise}")


def exact():
    return data(0.0)
"""

TOML = """
[model]
factory = "millimetres:build"
[data]
factory = "millimetres:{data}"
[compile]
targets = ["{target}"]
[schemes]
fusion = ["float"]
[search]
objective = "size"
{max_drop}
max_fusion_passes = 6
"""


def recipe(folder: Path, max_drop: str = 'max_drop = "2 %"', data: str = "data", target: str = "onnx") -> Path:
    (folder / "millimetres.py").write_text(MODULE)
    path = folder / "recipe.toml"
    path.write_text(TOML.format(max_drop=max_drop, data=data, target=target), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("written", "value", "share"),
    [
        ("2 %", 0.02, True),
        ("2%", 0.02, True),
        (" 2.5\u00a0% ", 0.025, True),
        ("150 %", 1.5, True),
        (0.0, 0.0, False),
        (250.0, 250.0, False),
    ],
)
def test_a_budget_is_a_number_or_a_share(written: float | str, value: float, share: bool) -> None:
    assert max_drop.read(RECIPE, written) == MaxDrop(value, share)


_FORMS = (
    "expected a number in the metric's own unit (0.01 is a point of accuracy), or a share of the reference's metric "
    "('2 %')."
)


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        ("2%%", f"is no budget: got '2%%', {_FORMS}"),
        ("2", f"is no budget: got '2', {_FORMS}"),
        ("%", f"is no budget: got '%', {_FORMS}"),
        ("two %", f"is no budget: got 'two %', {_FORMS}"),
        ("-1 %", "is out of range: got '-1 %', expected more than 0 %."),
        ("nan %", "is out of range: got 'nan %', expected more than 0 %."),
        ("1e999 %", "is out of range: got '1e999 %', expected more than 0 %."),
        (
            "0 %",
            "is out of range: got '0 %', expected more than 0 %. Fix: write max_drop = 0, a number, if nothing may be "
            "lost.",
        ),
        (-0.5, "is out of range: got -0.5, expected zero or more."),
        (float("nan"), "is out of range: got nan, expected zero or more."),
        (float("inf"), "is out of range: got inf, expected zero or more."),
    ],
)
def test_what_is_no_budget_is_a_sentence(written: float | str, sentence: str) -> None:
    with pytest.raises(RecipeError) as caught:
        max_drop.read(RECIPE, written)
    assert str(caught.value) == f"[search] max_drop in recipe.toml {sentence}"


def test_a_budget_of_all_is_none_for_a_share_of_the_items_alone() -> None:
    for metric, written in (("accuracy", 1.0), ("macro_f1", "100 %")):
        with pytest.raises(RecipeError, match=f"allows all of the metric '{metric}' to be lost: got "):
            max_drop.read_for(RECIPE, written, {"first": metric})
    assert max_drop.read_for(RECIPE, 40.0, {"mm": "mae"}) == {"mm": MaxDrop(40.0)}
    point, hundredth = MaxDrop(0.01, implied=True), MaxDrop(0.01, of_reference=True, implied=True)
    assert max_drop.read_for(RECIPE, None, {"a": "accuracy", "b": "mae"}) == {"a": point, "b": hundredth}


def test_each_output_has_a_budget_of_its_own() -> None:
    metrics = {"kind": "accuracy", "mm": "mae"}
    found = max_drop.read_for(RECIPE, {"mm": "2 %"}, metrics)
    assert found == {"kind": MaxDrop(0.01, implied=True), "mm": MaxDrop(0.02, of_reference=True)}
    with pytest.raises(RecipeError) as caught:
        max_drop.read_for(RECIPE, {"depth": 1.0}, metrics)
    assert str(caught.value).endswith("is for an unknown output: got 'depth', expected kind or mm.")
    parts = {"kind": Budget(0.0), "mm": Budget(0.2, limits={"test": {"mm: x": 0.3}}, whole=10.0, of_items=False)}
    budget = Budget.of_several(parts, {"kind": ["x"], "mm": ["mm: x"]})
    assert budget.limit("test", "x") == 0
    assert budget.limit("test", "mm: x") == 0.3
    # All drops come to one unit: an answer more that is wrong is over a budget of nothing, beside any other.
    assert budget.max_drop == 0.2
    assert budget.weight("test", "mm: x") * 0.3 == pytest.approx(0.2)
    assert budget.weight("test", "x") * 0.001 > 0.2
    assert budget.worst("test", {"x": 0.001, "mm: x": 0.29}) == "x"


def test_a_subset_in_which_the_reference_errs_more_may_lose_more() -> None:
    limits = {"both": 50.0, "left": 4000.0}
    budget = Budget(50.0, share=0.02, limits={"validation": limits, "test": limits}, whole=2500.0, of_items=False)
    figures = [
        StageFigure(
            stage="head", candidate=name, scheme=name, p50=p50, p50_ci95=(p50, p50), speedup=1 / p50, size_bytes=size,
            speedup_ci95=(1 / p50, 1 / p50), snr_db=snr_db, is_float=name == "float",
        )
        for name, p50, size, snr_db in (("float", 1.0, 400, 200.0), ("int8", 0.5, 100, 40.0), ("int4", 0.3, 50, 20.0))
    ]  # fmt: skip
    lost = {"float": (0.0, 0.0), "int8": (40.0, 3000.0), "int4": (45.0, 6000.0)}

    def judge(combination: object) -> Drops:
        both, left = lost[dict(combination)["head"]]  # type: ignore[call-overload]
        return {name: SubsetDrop(drop=drop, low=drop, high=drop) for name, drop in (("both", both), ("left", left))}

    weights = {name: budget.weight("validation", name) for name in limits}
    found = Search(figures, judge, budget.max_drop, list(limits), 6, weights=weights, smallest_scale=0.0).run()
    assert found.winners["latency"].candidates == {"head": "int8"}
    assert found.winners["latency"].worst_drop == pytest.approx(40.0)
    assert budget.worst("test", {"both": 45.0, "left": 3000.0}) == "both"


@pytest.mark.parametrize("target", ["onnx", pytest.param("tflite", marks=pytest.mark.exhaustive)])
def test_a_regression_in_millimetres_is_compressed_within_a_share(target: str, tmp_path: Path) -> None:
    result = compile(recipe(tmp_path, target=target), tmp_path / "out", cache=tmp_path / "cache")
    assert result.within_budget
    written = json.loads(result.report_json.read_bytes())
    report, (bundle,) = parse(written), parse(written).bundles
    assert max(rung.size_ratio for rung in bundle.rungs) > 2  # a thousandth of a square millimetre allowed float alone
    assert report.budget is not None
    assert report.budget.share == 0.02
    assert report.budget.limits == pytest.approx(
        {subset: 0.02 * abs(value) for subset, value in report.reference.accuracy.items()}
    )
    assert report.budget.max_drop == min(report.budget.limits.values())
    assert report.budget.limits["left"] > 1.3 * report.budget.limits["left+right"]
    for limit in (one for one in bundle.constraints if one.what.startswith("drop in ")):
        assert limit.unit == "mse"
        assert limit.limit == report.budget.limits[limit.what.removeprefix("drop in ")]
    assert "at most 2 % of the reference&#39;s mse lost in each" in result.report_html.read_text("utf-8")
    assert " pt" not in result.summary
    assert " mse" in result.summary


def test_a_share_of_nothing_is_refused_before_anything_is_built(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        compile(recipe(tmp_path, data="exact"), tmp_path / "out", cache=tmp_path / "cache")
    assert "[search] max_drop is a share of nothing: the mse of 'left+right' on 'va" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_few_samples_are_told_by_the_share(tmp_path: Path) -> None:
    found = check(recipe(tmp_path), cache=tmp_path / "cache")
    assert not [finding for finding in found.findings if finding.about == "budget"]
