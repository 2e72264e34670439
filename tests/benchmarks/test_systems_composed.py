"""`make systems`, for what is composed of several models: on made-up reports, and a module that asks nobody."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from benchmarks import compiling
from benchmarks.systems import __main__ as command
from benchmarks.systems import page, record
from benchmarks.systems.catalogue import Entry, compositions, entries
from benchmarks.systems.record import Answers, Composed, System
from benchmarks.systems.verdicts import verdicts
from edgefuse.commands.models import EXAMPLES
from edgefuse.compiler.report.encoding import encode
from edgefuse.errors import DataError
from edgefuse.runtime import pressure
from tests.benchmarks.test_systems import MODEL, RECIPE, report

COMPOSITION = {
    "name": "porter",
    "task": "who is at the door, and what is said",
    "modalities": ["image", "text"],
    "models": ["door", "window"],
    "target": "onnx",
    "data": {"source": "pictures of a door", "synthetic": ["text"]},
    "asked_by": "examples.porter.asking",
}
ASKING = """
import json, sys
*bundles, option, out = sys.argv[1:]
assert option == "--out" and len(bundles) == 2, sys.argv
with open(out + ".bundles", "w") as file:
    json.dump(bundles, file)
exact = all("float" in bundle for bundle in bundles)
found = {"right": {"who": [True] * 100, "said": [True] * 99 + [exact]}, "lost": 0 if exact else 1}
found |= {"times_ms": [10.0] * 80 + [20.0] * 20, "seconds": 2.0, "clients": 4, "replicas": 2}
with open(out, "w") as file:
    json.dump(found, file)
"""


def answers(right: dict[str, float], lost: int = 0) -> Answers:
    return Answers(right=right, lost=lost, per_second=40.0, p50_ms=10.0, p90_ms=20.4)


def system(who: float = 0.98, lost: int = 0, *, busy: bool = False) -> System:
    """Return a composed system that was right in 99 of 100 and comes to `who` of them."""
    found = Composed(
        models=("door", "window"),
        target="onnx",
        items=100,
        clients=4,
        replicas=2,
        float_files=answers({"who": 0.99, "said": 0.5}),
        compiled=answers({"who": who, "said": 0.5}, lost),
        drop={"who": 0.99 - who, "said": 0.0},
        drop_ci95={"who": (-0.01, 0.04), "said": (-0.02, 0.02)},
        size_bytes=1_500_000,
        size_ratio=3.25,
        busy=busy,
    )
    data = record.Data(source="pictures of a door", real=("image",), synthetic=("text",))
    made = System(name="porter", modalities=("image", "text"), data=data, composed=found)
    return msgspec.structs.replace(made, verdicts=verdicts(made, ()))


def missed(made: System) -> list[str]:
    return [f"{one.what}: {one.figure}" for one in made.verdicts if not one.ok]


def test_at_most_a_point_of_each_part_may_be_lost_and_no_request() -> None:
    assert missed(system()) == []
    assert missed(system(0.97)) == ["onnx: at most a point of the who lost: 2.00 points"]
    assert missed(system(lost=3)) == ["no request lost: 3 of 200"]


def test_a_composed_system_has_a_row_in_a_table_of_its_own() -> None:
    text = page.with_table(f"{page.BEGIN}\n{page.END}\n", [system(busy=True)])
    row = (
        "| `porter` | `door` + `window` | onnx | 100 | who 99.00 %, said 50.00 % | who 98.00 %, said 50.00 % "
        "| who 1.00 [-1.00, 4.00], said 0.00 [-2.00, 2.00] | 3.25 × | 1.50 MB | 2 | 4 | 40.0 (busy) | 40.0 (busy) "
        "| 10 ms | 20 ms | yes |"
    )
    assert row in text.splitlines()
    assert not [line for line in text.splitlines() if line.startswith("- ")]
    shown = {field for field, _ in page.COMPOSED_COLUMNS.values()}
    fields = {field for part in (System, Composed) for field in part.__struct_fields__}
    assert shown <= fields
    assert {*Composed.__struct_fields__} - shown == {"drop"}
    assert "Composed of several models" not in page.table(())


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    """A folder of two models, and of what is composed of them."""
    for name in ("door", "window"):
        folder = tmp_path / "examples" / name
        folder.mkdir(parents=True)
        models = [{**MODEL, "name": name, "factory": f"{name}:build"}]
        (folder / "models.json").write_text(json.dumps(models), encoding="utf-8")
        (folder / "recipe.toml").write_text(RECIPE.format(f"{name}:build"), encoding="utf-8")
    folder = tmp_path / "examples" / "porter"
    folder.mkdir()
    (folder / "composition.json").write_text(json.dumps(COMPOSITION), encoding="utf-8")
    (folder / "asking.py").write_text(ASKING, encoding="utf-8")
    return tmp_path / "examples"


@pytest.fixture
def compiles(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was compiled and exported, neither of which takes any time, on a quiet machine."""
    made: list[str] = []

    def compiled(entry: Entry, folder: Path, jobs: int) -> Path:
        made.append(entry.name)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "report.json").write_bytes(encode(report()))
        return folder / "report.json"

    def exported(named: str, recipe: Path, bundle: Path, target: str) -> None:
        made.append(f"{recipe.parent.name} in float for {target}")

    monkeypatch.setattr(command, "compiled", compiled)
    monkeypatch.setattr(compiling, "exported", exported)
    monkeypatch.setattr(pressure, "quiet", lambda: True)
    return made


def words(examples: Path, *more: str) -> list[str]:
    out = examples.parent / "out"
    return ["--out", str(out / "systems.json"), "--work", str(out), "--examples", str(examples), *more]


def test_several_models_are_asked_with_what_was_just_compiled(
    examples: Path, compiles: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    floats = ["door in float for onnx", "window in float for onnx"]
    assert command.main(words(examples)) == 1
    assert compiles == ["door", "window", *floats]
    out = examples.parent / "out"
    asked = {name: json.loads((out / "porter" / f"{name}.json.bundles").read_bytes()) for name in ("float", "compiled")}
    assert asked["float"] == [str(out / "porter" / f"{name}-float.edgefuse") for name in ("door", "window")]
    assert asked["compiled"] == [str(out / name / "b") for name in ("door", "window")]
    *_, made = json.loads((out / "systems.json").read_bytes())
    found = made["composed"]
    assert (made["name"], made["targets"], made["data"]["real"]) == ("porter", {}, ["image"])
    assert (found["items"], found["clients"], found["replicas"], found["busy"]) == (100, 4, 2, False)
    assert found["compiled"] == {
        "right": {"who": 1.0, "said": 0.99},
        "lost": 1,
        "per_second": 49.5,
        "p50_ms": 10.0,
        "p90_ms": 20.0,
    }
    assert found["drop"] == pytest.approx({"who": 0.0, "said": 0.01})
    low, high = found["drop_ci95"]["said"]
    assert low < 0.01 < high
    assert (found["size_bytes"], found["size_ratio"]) == (200, 2.0)
    assert "not ok  porter, no request lost: 1 of 200" in capsys.readouterr().out


def test_one_alone_compiles_its_models_and_leaves_their_rows(
    examples: Path, compiles: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet = iter((True, False))
    monkeypatch.setattr(pressure, "quiet", lambda: next(quiet))
    assert command.main(words(examples, "--only", "porter")) == 1
    assert compiles[:2] == ["door", "window"]
    out = examples.parent / "out" / "systems.json"
    (made,) = record.read(out)
    assert made.name == "porter"
    assert made.composed is not None
    assert made.composed.busy
    assert command.main(words(examples, "--only", "door")) == 1  # the other one is in the file, and lost a request
    assert [one.name for one in record.read(out)] == ["door", "porter"]


@pytest.mark.parametrize(
    ("asking", "says"),
    [
        ("raise SystemExit('nobody is there')", "'porter' cannot be asked (nobody is there)"),
        ("raise SystemExit(3)", "'porter' cannot be asked (code 3)"),
    ],
)
def test_one_that_cannot_be_asked_says_why(examples: Path, compiles: list[str], asking: str, says: str) -> None:
    (examples / "porter" / "asking.py").write_text(asking, encoding="utf-8")
    assert command.main(words(examples, "--only", "porter")) == 1
    (made,) = record.read(examples.parent / "out" / "systems.json")
    assert made.composed is None
    assert made.failed == {"porter": says}


def test_one_whose_model_has_no_bundle_for_the_target_says_so(examples: Path, compiles: list[str]) -> None:
    changed = COMPOSITION | {"target": "tflite"}
    (examples / "porter" / "composition.json").write_text(json.dumps(changed), encoding="utf-8")
    assert command.main(words(examples, "--only", "porter")) == 1
    (made,) = record.read(examples.parent / "out" / "systems.json")
    assert made.failed == {"porter": "'porter' lacks a bundle of 'door' (no bundle)"}


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"models": ["door", "roof"]}, "'porter' has a model without a recipe: got 'roof', expected door or window"),
        ({"model": "door"}, "cannot read the composition in .*composition.json"),
    ],
)
def test_a_composition_that_is_wrong_is_refused(examples: Path, changed: dict[str, Any], says: str) -> None:
    (examples / "porter" / "composition.json").write_text(json.dumps(COMPOSITION | changed), encoding="utf-8")
    with pytest.raises(DataError, match=says):
        compositions(examples, ["door", "window"])


def test_what_the_examples_compose_can_be_asked() -> None:
    found = compositions(EXAMPLES, [entry.name for entry in entries()])
    assert [one.name for one in found] == [path.parent.name for path in sorted(EXAMPLES.glob("*/composition.json"))]
    for one in found:
        spec = importlib.util.find_spec(one.asked_by)
        assert spec is not None
        assert spec.origin == str(EXAMPLES / one.name / f"{one.asked_by.rpartition('.')[2]}.py")
        assert one.target in command.TARGETS
