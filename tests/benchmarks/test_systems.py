"""`make systems`, on made-up reports: what is told of a system, what it must show, and the table in docs/systems.md."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from benchmarks.systems import __main__ as command
from benchmarks.systems import page, record
from benchmarks.systems.catalogue import Entry, entries
from benchmarks.systems.record import System, Target
from benchmarks.systems.verdicts import verdicts
from edgefuse.commands.models import ReferenceModel
from edgefuse.compiler.report.encoding import encode
from edgefuse.compiler.report.judged import SaidReport
from edgefuse.compiler.report.part import Gain
from edgefuse.compiler.report.schema import BudgetReport, BundleReport, Reference, Report, RungReport, StageChoice
from edgefuse.errors import DataError, MeasureError

ROOT = Path(__file__).parents[2]
BEFORE = {"image+text": 0.9, "image": 0.8, "text": 0.7}
MODEL = {
    "name": "door",
    "task": "who is at the door",
    "modalities": ["image", "text"],
    "factory": "door:build",
    "parameters": 10,
    "data": {"source": "pictures of a door", "synthetic": ["text"]},
    "metric": "accuracy",
    "reference": 0.9,
    "compiled": {},
    "measured": "nowhere",
}
ERRORS: dict[str, Any] = {"metric": "mae", "lower_is_better": True}
RECIPE = '[model]\nfactory = "{}"\n[data]\nfactory = "door:data"\n[compile]\ntargets = ["onnx"]\n'


def model(**changed: Any) -> ReferenceModel:
    return msgspec.convert({**MODEL, **changed}, ReferenceModel)


def rung(name: str, after: Mapping[str, float], ratio: float, said: SaidReport | None = None) -> RungReport:
    return RungReport(
        name=name,
        objective="latency",
        stages={"fusion": StageChoice(scheme="float")},
        accuracy=dict(after),
        drop_ci95=dict.fromkeys(after, (-0.01, 0.02)),
        p50=1.0,
        speedup=Gain(ratio=3.5, ci95=(3.4, 3.6)),
        speedup_over_float=Gain(ratio=2.5, ci95=(2.4, 2.6), marked=True),
        size_bytes=100,
        size_ratio=ratio,
        said=said,
    )


def report(
    after: Mapping[str, float] = BEFORE,
    *,
    before: Mapping[str, float] = BEFORE,
    metric: str = "accuracy",
    smallest: float = 4.0,
    lower_is_better: bool = False,
    said: SaidReport | None = None,
    failed: Mapping[str, str] | None = None,
    bound: tuple[str, ...] = (),
) -> Report:
    reference = Reference(
        runtime="torch (eager)",
        threads=1,
        p50_ms=3.5,
        size_bytes=400,
        metric=metric,
        accuracy=dict(before),
        items=500,
        lower_is_better=lower_is_better,
    )
    rungs = (rung("fast", after, 2.0, said), rung("small", after, smallest))
    bundle = BundleReport(
        target="onnx", path="b", size_bytes=1, within_budget=True, float_p50=2.5, float_size_bytes=200, rungs=rungs
    )
    budget = BudgetReport(max_drop=0.01, subsets=bound)
    return Report(reference=reference, bundles=(bundle,), failed=dict(failed or {}), budget=budget)


def missed(made: Report, explained: tuple[str, ...] = ()) -> list[str]:
    system = record.measured(model(), made)
    return [f"{one.what}: {one.figure}" for one in verdicts(system, explained) if not one.ok]


def test_figures_are_those_of_the_report() -> None:
    after = {"image+text": 0.895, "image": 0.81, "text": 0.69}
    system = record.measured(model(), report(after))
    target = system.targets["onnx"]
    assert (system.reference, system.metric, system.items, system.bound) == (BEFORE, "accuracy", 500, tuple(BEFORE))
    assert (system.data.real, system.data.synthetic) == (("image",), ("text",))
    assert (target.rung, target.metric, target.size_ratio, target.smallest_size_ratio) == ("fast", after, 2.0, 4.0)
    assert target.drop == pytest.approx({subset: BEFORE[subset] - after[subset] for subset in BEFORE})
    assert (target.speedup_over_float.ratio, target.tokens_equal, target.step_overhead) == (2.5, None, None)
    assert target.speedup_over_torch == Gain(ratio=3.5, ci95=(3.4, 3.6))


def test_a_model_that_generates_has_its_tokens_and_random_weights_claim_nothing() -> None:
    said = SaidReport(items=20, tokens_equal=0.97, sentences_equal=0.8)
    assert record.measured(model(), report(said=said)).targets["onnx"].tokens_equal == 0.97
    system = record.measured(model(metric=None, reference=None), report(smallest=1.0))
    assert (system.metric, system.reference, system.targets["onnx"].metric) == (None, None, None)
    assert [one.what for one in verdicts(system, ())] == ["onnx: a rung of a third of the size"]


def test_what_is_shown_is_not_missed() -> None:
    assert missed(report({"image+text": 0.89, "image": 0.79, "text": 0.69})) == []


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (report({**BEFORE, "text": 0.68}), "onnx: at most a point lost: 2.00 points, text"),
        (report(smallest=2.99), "onnx: a rung of a third of the size: 2.99 ×"),
        (report({**BEFORE, "image": 0.78}, metric="token_accuracy"), "onnx: at most 2 % lost: 2.50 %, image"),
        (
            report({"image+text": 4.1, "image": 5.0}, before={"image+text": 4.0, "image": 5.0}, **ERRORS),
            "onnx: at most 2 % lost: 2.50 %, image+text",
        ),
        (
            report({"image+text": 5.0, "image": 4.0}, before={"image+text": 5.0, "image": 4.0}, **ERRORS),
            "better than its best modality alone: 5 against 4 by image",
        ),
        (report(failed={"tflite": "no such operator"}), "tflite compiles: no such operator"),
    ],
)  # fmt: skip
def test_what_a_system_misses_is_said(made: Report, says: str) -> None:
    assert missed(made) == [says]


def test_a_share_of_what_is_generated_may_be_lost() -> None:
    assert missed(report({**BEFORE, "image+text": 0.884}, metric="bleu")) == []


def test_a_subset_that_the_budget_does_not_bind_may_lose_more() -> None:
    assert missed(report({**BEFORE, "text": 0.5}, bound=("image+text", "image"))) == []


def test_the_page_may_say_why_one_modality_does_as_well() -> None:
    figures = {**BEFORE, "image": 0.9}
    made = report(figures, before=figures)
    assert missed(made) == ["better than its best modality alone: 0.9 against 0.9 by image"]
    told = page.explained(f"- **window**: no.\n{page.BEGIN}\n{page.END}\n## Why\n- **door**: pictures say all.\n")
    assert told == {"door"}
    assert missed(made, tuple(told)) == []


def test_the_pages_columns_are_fields_of_the_json() -> None:
    fields = {field for part in (System, Target) for field in part.__struct_fields__}
    shown = {field for field, _ in page.COLUMNS.values()}
    assert shown <= fields
    assert fields - shown == {"rung", "drop", "lower_is_better", "items", "bound", "failed", "composed"}
    text = (ROOT / "docs" / "systems.md").read_text(encoding="utf-8")
    block = text.partition(page.BEGIN)[2].partition(page.END)[0]
    assert page.with_table(text, ()).count(page.BEGIN) == 1
    tables = [part.splitlines() for part in block.strip().split("\n\n") if part.startswith("|")]
    for lines, columns in zip(tables, (page.COLUMNS, page.COMPOSED_COLUMNS), strict=True):
        assert [cell.strip() for cell in lines[0].strip("|").split("|")] == list(columns)
        assert all(line.count("|") == len(columns) + 1 for line in lines)


def test_a_row_shows_what_the_json_has() -> None:
    said = SaidReport(items=20, tokens_equal=0.97, sentences_equal=0.8)
    system = record.measured(model(), report({**BEFORE, "image": 0.79}, said=said))
    system = msgspec.structs.replace(system, verdicts=verdicts(system, ()))
    text = page.with_table(f"before\n{page.BEGIN}\nold\n{page.END}\nafter\n", [system])
    row = (
        "| `door` | image + text | text | onnx | accuracy 90.00 % | 90.00 % | 1.00 [-1.00, 2.00], image "
        "| 2.50 × (busy) | 3.50 × | 2.00 × | 4.00 × | 97.0 % | – | yes |"
    )
    assert row in text.splitlines()
    assert (
        "- `door`, accuracy, 500 items of pictures of a door: image+text 90.00 %, image 80.00 %, text 70.00 %" in text
    )
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    with pytest.raises(DataError, match="the page has no place for the table of systems"):
        page.with_table("nothing", [system])


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    """A folder of two systems, and of a model that no recipe compiles."""
    for name in ("door", "window"):
        folder = tmp_path / "examples" / name
        folder.mkdir(parents=True)
        others = [{**MODEL, "name": "wall", "factory": "wall:build"}] if name == "window" else []
        models = [{**MODEL, "name": name, "factory": f"{name}:build"}, *others]
        (folder / "models.json").write_text(json.dumps(models), encoding="utf-8")
        for file in ("arm64", "recipe"):
            (folder / f"{file}.toml").write_text(RECIPE.format(f"{name}:build"), encoding="utf-8")
    return tmp_path / "examples"


def test_a_folder_with_models_and_a_recipe_is_a_system(examples: Path) -> None:
    found = entries(examples)
    assert [(one.model.name, one.recipe.parent.name, one.recipe.name) for one in found] == [
        ("door", "door", "recipe.toml"),
        ("window", "window", "recipe.toml"),
    ]
    own = {one.model.name: one.recipe for one in entries()}
    assert own["digits"].name == "recipe.toml"
    assert {path.parent for path in own.values()} == {path.parent for path in ROOT.glob("examples/*/models.json")}


def test_a_system_that_fails_leaves_the_others_and_one_alone_keeps_them(
    examples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = []

    def compiled(entry: Entry, folder: Path, jobs: int) -> Path:
        made.append(entry.model.name)
        if entry.model.name == "door":
            raise MeasureError("the compile of 'door' failed", got="killed")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "report.json").write_bytes(encode(report()))
        return folder / "report.json"

    monkeypatch.setattr(command, "compiled", compiled)
    docs, out = tmp_path / "systems.md", tmp_path / "out" / "systems.json"
    docs.write_text(f"{page.BEGIN}\n{page.END}\n", encoding="utf-8")
    words = ["--out", str(out), "--work", str(tmp_path / "work"), "--docs", str(docs), "--examples", str(examples)]
    assert command.main(words) == 1
    assert made == ["door", "window"]
    found = {one["name"]: one for one in json.loads(out.read_bytes())}
    assert found["door"]["failed"] == {"door": "the compile of 'door' failed (killed)"}
    assert found["window"]["targets"]["onnx"]["speedup_over_float"] == {
        "ratio": 2.5,
        "ci95": [2.4, 2.6],
        "marked": True,
    }
    assert "ok      window, better than its best modality alone: 0.9 against 0.8 by image" in capsys.readouterr().out
    assert command.main([*words, "--only", "window"]) == 1  # the other one is in the file, and failed
    assert made[2:] == ["window"]
    assert {one.name: one for one in record.read(out)}["door"].failed
    assert "`window`" in docs.read_text(encoding="utf-8")
    assert command.main([*words, "--only", "roof"]) == 2
    assert "there is no such system: got 'roof', expected door or window." in capsys.readouterr().err


def test_a_compile_that_ends_otherwise_says_its_last_words(examples: Path, tmp_path: Path) -> None:
    entry = Entry(model(), examples / "door" / "recipe.toml")
    with pytest.raises(
        MeasureError, match="the compile of 'door' failed: got edgefuse: error: cannot import the factory"
    ):
        command.compiled(entry, tmp_path / "work", 1)
