"""The recipes of docs/your-task.md work as they stand, and each finds what it is about."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgefuse.bundle.reader import open_bundle
from edgefuse.cli import main
from edgefuse.compiler.report.encoding import parse
from edgefuse.compiler.report.schema import Report
from tests.compiler.hurry import hurried

PAGE = (Path(__file__).parents[2] / "docs" / "your-task.md").read_text(encoding="utf-8")


def blocks(section: str) -> list[str]:
    """Return the code of a section of the page; that before the first one for an empty name."""
    first, *others = re.split(r"^## (.*)\n", PAGE, flags=re.MULTILINE)
    text = dict(zip(others[::2], others[1::2], strict=True))[section] if section else first
    return re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGEFUSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in ("my_metrics", "task", "task_strict"):
        sys.modules.pop(name, None)


def report_of(section: str, folder: Path, **settings: Any) -> Report:
    """Run a section, and return the report of its compile."""
    *modules, code = blocks(section)
    for module in modules:
        (folder / re.findall(r"# (\w+\.py)", module)[0]).write_text(module, encoding="utf-8")
    # In a module, as a user's is: what is defined in it is found again by its name.
    few = "".join(f", {name}={value!r}" for name, value in {"max_fusion_passes": 5, **settings}.items())
    code = re.sub(r"\)\n$", f"{few})\n", code)
    (folder / "task.py").write_text(blocks("")[0] + "\n\n" + code, encoding="utf-8")
    with hurried():
        import task  # type: ignore[import-not-found]
    return parse(json.loads(task.made.report_json.read_bytes()))


def test_several_labels(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = report_of("Several labels", folder)
    assert found.reference.metric == "macro_f1"
    assert 0.5 < found.reference.accuracy["x"] < 1
    assert found.bundles[0].within_budget
    assert max(rung.size_ratio for rung in found.bundles[0].rungs) > 2
    with open_bundle(folder / "out" / "labels" / "labels-onnx.edgefuse") as bundle:
        assert bundle.manifest.model.metric == "macro_f1"
    np.save(folder / "x.npy", np.full((1, 32), 0.5, np.float32))
    assert main(["run", "out/labels/labels-onnx.edgefuse", "--x", "x.npy", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert all(0.5 < chance < 1 for chance in answer["labels"].values())


def test_a_regression_in_millimetres(folder: Path) -> None:
    found = report_of("A regression in millimetres", folder)
    assert found.reference.metric == "mae"
    assert found.reference.lower_is_better
    assert found.reference.accuracy["x"] == pytest.approx(0.08, rel=0.2)  # of a normal error of 0.1
    assert found.budget is not None
    assert found.budget.limits["x"] == pytest.approx(0.02 * found.reference.accuracy["x"])
    assert found.bundles[0].within_budget
    rungs = found.bundles[0].rungs
    assert max(rung.size_ratio for rung in rungs) > 2
    (drop,) = (one for one in found.bundles[0].constraints if one.rung == rungs[0].name)
    # In millimetres, and positive where the error grew.
    assert (drop.what, drop.unit) == ("drop in x", "mae")
    assert drop.value == pytest.approx(rungs[0].accuracy["x"] - found.reference.accuracy["x"])
    assert rungs[0].drop_ci95["x"][0] <= drop.value <= rungs[0].drop_ci95["x"][1]


def test_two_outputs_each_with_a_budget(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = report_of("Two outputs", folder, objective="size")
    depth = found.reference.outputs["depth"]
    assert (found.reference.metric, depth.metric, depth.lower_is_better) == ("accuracy", "rmse", True)
    assert depth.limits["x"] == pytest.approx(0.05 * depth.accuracy["x"])
    (bundle,) = found.bundles
    assert bundle.within_budget
    names = {one.what for one in bundle.constraints}
    assert names == {"drop in x", "drop of 'depth' in x"}
    with open_bundle(folder / "out" / "two" / "two-onnx.edgefuse") as opened:
        (figures,) = (rung.outputs["depth"] for rung in opened.manifest.rungs[:1])
    assert figures.metric == "rmse"
    assert figures.accuracy == bundle.rungs[0].outputs["depth"].accuracy
    capsys.readouterr()
    assert main(["inspect", "out/two/two-onnx.edgefuse"]) == 0
    shown = capsys.readouterr().out
    assert "accuracy in percent by subset of the inputs" in shown
    assert "rmse of depth by subset of the inputs" in shown
    page = (folder / "out" / "two" / "report.html").read_text(encoding="utf-8")
    assert "The output “depth”" in page
    assert found.search is not None
    assert all(one.other_drops.keys() == {"depth: x"} for one in found.search.judged)
    assert bundle.rungs[0].size_ratio > 2
    # The same model, whose depth is known exactly and may lose nothing: that decides, where the class allows it all.
    strict = strictly(folder)
    assert strict.bundles[0].rungs[0].size_ratio == 1
    assert strict.search is not None
    assert any(one.drop["x"] <= 0.02 and not one.within_budget for one in strict.search.judged)


def strictly(folder: Path) -> Report:
    """Run "Two outputs" again with a depth that may lose hardly anything."""
    code = (folder / "task.py").read_text(encoding="utf-8")
    for old, new in (
        ('"depth": "5 %"', '"depth": 1e-5'),
        ("depth + rng.normal(0, 0.05, 1)", "depth"),
        ("two", "strict"),
    ):
        assert old in code
        code = code.replace(old, new)
    (folder / "task_strict.py").write_text(code, encoding="utf-8")
    with hurried():
        import task_strict  # type: ignore[import-not-found]
    return parse(json.loads(task_strict.made.report_json.read_bytes()))


def test_retrieval(folder: Path) -> None:
    found = report_of("Retrieval", folder)
    assert found.reference.metric == "recall@10"
    assert 0.8 < found.reference.accuracy["x"] <= 1
    assert found.bundles[0].within_budget
    assert max(rung.size_ratio for rung in found.bundles[0].rungs) > 2


@pytest.mark.exhaustive
def test_retrieval_of_a_pair_needs_no_targets(folder: Path) -> None:
    pair = """outputs = (
    spec.EmbeddingOutput(name="picture", size=16, pair="caption"),
    spec.EmbeddingOutput(name="caption", size=16),
)
made = compiled("pair", [16, 16], outputs, lambda rng, *_: None, max_drop=0.05, max_fusion_passes=2)
"""
    (folder / "task.py").write_text(blocks("")[0] + "\n\n" + pair, encoding="utf-8")
    with hurried():
        import task
    found = parse(json.loads(task.made.report_json.read_bytes()))
    assert found.reference.metric == "recall@10"
    assert found.reference.outputs == {}  # the other one is found, and not judged by itself
    assert set(found.bundles[0].rungs[0].other_outputs) == {"caption"}
    assert 0 < found.reference.accuracy["x"] < 1  # of heads that nobody trained


def test_no_labels(folder: Path) -> None:
    pytest.importorskip("edgefuse.compiler.metrics.fidelity")
    found = report_of("No labels", folder)
    assert found.reference.metric == "agreement"
    assert found.reference.accuracy["x"] == 1
    assert found.bundles[0].within_budget


def test_a_metric_of_ones_own(folder: Path) -> None:
    found = report_of("A metric of your own", folder)
    assert found.reference.metric == "my_metrics:worst_tenth"
    assert found.reference.lower_is_better
    assert found.bundles[0].within_budget
    for rung in found.bundles[0].rungs:
        lost = rung.accuracy["x"] - found.reference.accuracy["x"]
        assert rung.drop_ci95["x"][0] <= lost <= rung.drop_ci95["x"][1]
