"""The zoo's entries build, answer their own samples, and what is told of them is what a report says."""

from __future__ import annotations

import subprocess
from collections import Counter
from pathlib import Path
from unittest.mock import patch

import msgspec
import numpy as np
import pytest
from torch import Tensor, nn

from benchmarks.zoo import __main__ as zoo
from benchmarks.zoo import worker
from benchmarks.zoo.catalogue import ENTRIES
from benchmarks.zoo.entry import Entry, described
from benchmarks.zoo.fusions import siamese
from benchmarks.zoo.record import Row, Target, found_row, from_report
from benchmarks.zoo.verdicts import verdicts
from edgefuse.bundle.reader import open_bundle
from edgefuse.bundle.spec import ModelSpec, tensor
from edgefuse.compiler.candidates.golden import GoldenRow
from edgefuse.compiler.recipe.recipe import load
from edgefuse.compiler.report import schema
from edgefuse.compiler.report.part import Gain
from edgefuse.measure.latency import Latencies
from edgefuse.stages.found import find


def test_there_are_enough_and_names_are_unique() -> None:
    assert len(ENTRIES) >= 24
    families = [zoo.ROOT / "benchmarks" / "zoo" / f"{name}.py" for name in ("transformers_models", "systems")]
    assert all(path.is_file() for path in families)
    assert [name for name, count in Counter(entry.factory for entry in ENTRIES.values()).items() if count > 1] == []


@pytest.mark.parametrize(
    "name", [name if name == "clip" else pytest.param(name, marks=pytest.mark.exhaustive) for name in ENTRIES]
)
def test_a_module_answers_its_own_samples(name: str) -> None:
    entry = type(ENTRIES[name])(ENTRIES[name].factory, ENTRIES[name].draws)  # heads as they were drawn: that is quick
    _, spec = entry.build()
    assert spec.name == name
    for index in (0, 1):
        answers = entry.answers(entry.sample(index))
        assert [answer.shape for answer in answers] == [(1, *output.shape) for output in spec.outputs]
        assert all(np.isfinite(answer).all() for answer in answers)


def test_a_fitted_head_tells_clusters_apart() -> None:
    entry = ENTRIES["sensor_clocks"]
    found = [int(entry.answers(entry.sample(index))[0].argmax()) for index in range(200, 230)]
    assert np.mean([answer == index % 3 for index, answer in enumerate(found, 200)]) > 0.9


def test_a_model_is_told_with_its_share_and_stages() -> None:
    entry = ENTRIES["siamese"]
    row = worker.find_stages(entry)
    assert row.model == siamese.__name__
    assert row.stages == ("left_encoder", "right_encoder", "fusion")
    assert row.single_modality_share is not None
    assert row.single_modality_share > 0.9
    single = found_row("siamese", find(*worker.as_one_stage(entry)))
    assert single.stages == ("model",)
    assert single.parameters == row.parameters


@pytest.mark.parametrize("target", ["onnx", "tflite"])
def test_recipes_try_the_likeliest_schemes_on_the_stages_that_there_are(target: str, tmp_path: Path) -> None:
    worker.write_recipes(ENTRIES["siamese"], tmp_path, target)
    split, single = (load(tmp_path / f"{target}{kind}.toml") for kind in ("", "-single"))
    assert (split.model.factory, single.model.factory) == ("zoo_siamese:build", "zoo_siamese:single")
    assert split.compile.targets == (target,)
    assert list(split.schemes) == ["left_encoder", "right_encoder", "fusion"]
    assert list(single.schemes) == ["model"]
    kinds = {tuple(sorted(scheme.split(".")[0] for scheme in schemes)) for schemes in split.schemes.values()}
    assert kinds == {("dynamic_wi8_af32", "static_wi8_ai8")}
    worker.write_recipes(ENTRIES["siamese"], tmp_path, target, every_scheme=True)
    assert load(tmp_path / f"{target}.toml").schemes == {}


def _report(unit: str = "ms") -> schema.Report:
    rung = schema.RungReport(
        name="fast", objective="latency", stages={"a": schema.StageChoice(scheme="dynamic_wi8_af32")}, accuracy={},
        drop_ci95={}, p50=1.0, speedup=None, size_bytes=1, size_ratio=4.0,
        speedup_over_float=Gain(ratio=1.75, ci95=(1.7, 1.8)),
    )  # fmt: skip
    golden = [
        GoldenRow(target="onnx", stage="a", candidate=name, max_abs_error=error, tolerance={}, ok=True)
        for name, error in (("a@float", 1e-6), ("a@int8", 0.1))
    ]
    return schema.Report(
        reference=schema.Reference(
            runtime="torch", threads=1, p50_ms=None, size_bytes=1, metric="accuracy", accuracy={}, items=1
        ),
        bundles=(
            schema.BundleReport(
                target="onnx",
                path="x",
                size_bytes=1,
                within_budget=True,
                float_p50=2.0,
                float_size_bytes=4,
                rungs=(rung,),
            ),
        ),
        golden=tuple(golden),
        stages=tuple(
            schema.CandidateReport(target="onnx", stage="a", candidate=name, scheme=scheme)
            for name, scheme in (("a@float", "float"), ("a@int8", "dynamic_wi8_af32"))
        ),
        failed={"tflite": "no file for it."},
        unit=unit,
    )


def test_what_is_told_of_a_target_is_what_the_report_says() -> None:
    told = from_report(_report(), "onnx", 12.34)
    assert told == Target(
        compiled=True, seconds=12.3, max_abs_error=1e-6, speedup_over_float=1.75, speedup_over_float_ci95=(1.7, 1.8),
        schemes={"a": "dynamic_wi8_af32"},
    )  # fmt: skip
    assert from_report(_report(), "tflite", 1.0) == Target(seconds=1.0, error="no file for it.")


def test_a_report_of_files_that_were_only_made_tells_no_gain() -> None:
    assert from_report(_report("cost"), "onnx", 1.0) == Target(compiled=True, seconds=1.0, max_abs_error=1e-6)


def test_a_split_model_that_takes_half_the_time_is_twice_as_fast() -> None:
    rounds = np.full(40, 1_000_000, np.int64)
    told = Target()
    told.compare(Latencies({"split": rounds, "single": 2 * rounds}))
    assert (told.speedup_single_stage, told.speedup_single_stage_ci95) == (2.0, (2.0, 2.0))
    assert (told.p50_ms, told.single_stage_p50_ms) == (1.0, 2.0)
    assert not told.slower_than(1.0)
    told.compare(Latencies({"split": 2 * rounds, "single": rounds}))
    assert told.speedup_single_stage == 0.5
    assert told.slower_than(1.0)
    assert not told.slower_than(0.5)


def test_seconds_are_those_of_making_and_of_timing() -> None:
    made = Target(compiled=True, seconds=20.0, single_stage_seconds=10.0)
    told = made.timed(Target(compiled=True, seconds=5.0, single_stage_seconds=4.0, speedup_over_float=2.0))
    assert (told.seconds, told.single_stage_seconds, told.speedup_over_float) == (25.0, 14.0, 2.0)
    refused = Target(compiled=True, single_stage_seconds=3.0, single_stage_error="no")
    assert refused.timed(Target(compiled=True)).single_stage_error == "no"


def _row(model: str, *, one_stage: float, gain: float = 2.0) -> Row:
    target = Target(
        compiled=True,
        speedup_over_float=gain,
        speedup_single_stage=one_stage,
        speedup_single_stage_ci95=(one_stage - 0.02, one_stage + 0.02),
        p50_ms=1.0,
        single_stage_p50_ms=one_stage,
    )
    return Row(model=model, single_modality_share=0.9, stages=("a", "b", "fusion"), targets={"onnx": target})


def test_verdicts_name_what_fails_them() -> None:
    rows = [_row(f"m{index}", one_stage=1.0 + index / 10) for index in range(9)]
    assert all(verdict.ok for verdict in verdicts(rows))
    failed = Row(model="odd", single_modality_share=0.95, stages=("model",), targets={"onnx": Target(error="no")})
    more = [failed, _row("calls", one_stage=0.95), _row("slow", one_stage=0.9)]
    told = {verdict.what: verdict for verdict in verdicts([*rows, *more])}
    assert {what: (verdict.figure, verdict.ok) for what, verdict in told.items()} == {
        "onnx: at least 90% compile": ("11 of 12, 91.7%", True),
        "`edgefuse check` foresees what fails": ("0 of 1; not odd (onnx)", False),
        "split where 80% or more see one modality": ("11 of 12; not odd", False),
        "onnx: not slower than as one stage but for 3% and 10 us a stage": (
            "10 of 11, median 1.30 x, 2 slower; not slow 0.90 (+100 us)",
            False,
        ),
        "onnx: median at least 1.5 x float": ("2.00 x of 11", True),
    }
    assert str(told["onnx: at least 90% compile"]) == "ok      onnx: at least 90% compile: 11 of 12, 91.7%"
    few = [_row("a", one_stage=1.0, gain=1.2), Row(model="b", targets={"onnx": Target(error="no", check=("so",))})]
    assert [verdict.ok for verdict in verdicts(few)] == [False, True, True, True, False]
    assert [verdict.what for verdict in verdicts([Row(model="stages alone")])] == [
        "split where 80% or more see one modality"
    ]


def _zoo(folder: Path, *words: str) -> zoo.Zoo:
    return zoo.Zoo(zoo.parser().parse_args(["--work", str(folder), "--deadline", "60", *words]))


def test_one_that_is_late_leaves_its_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise subprocess.TimeoutExpired("worker", 60)

    monkeypatch.setattr(subprocess, "run", fails)
    row = _zoo(tmp_path, "--targets", "onnx").make("clip")
    late = "not done after 120 s"
    assert row == Row(model="clip", error=late, targets={"onnx": Target(error=late, check=())})
    assert "clip: 0.00 M" in zoo.line(row)
    assert "not ok  onnx: at least 90% compile: 0 of 1" in zoo.summary([row])


def test_a_process_that_dies_takes_one_step_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first process dies while it lowers for ONNX; another goes on, and `check` is asked about what failed."""
    told = {
        "found": Row(model="clip", stages=("model",)),
        "made:tflite": Target(compiled=True, seconds=3.0),
        "check:onnx": ("It cannot be lowered.",),
        "timed:tflite": Target(compiled=True, seconds=2.0, speedup_over_float=1.5),
    }
    runs: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[bytes]:
        runs.append(command[5:])
        for step in command[5:]:
            if step not in told:
                return subprocess.CompletedProcess(command, -11)
            worker.told_in(Path(command[4]), step).write_bytes(msgspec.json.encode(told[step]))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run)
    all_of_it = _zoo(tmp_path)
    row = all_of_it.make("clip")
    all_of_it.time(row)
    assert runs == [["found", "made:onnx", "made:tflite"], ["made:tflite"], ["check:onnx"], ["timed:tflite"]]
    died = row.targets["onnx"]
    assert died.error is not None
    assert died.error.startswith("the process ended with -11 and told nothing")
    assert died.check == ("It cannot be lowered.",)
    assert row.error == f"onnx: {died.error}"
    assert row.targets["tflite"] == Target(compiled=True, seconds=5.0, speedup_over_float=1.5)
    assert "onnx failed; tflite 1.5 x float in 5 s" in zoo.line(row)


def test_only_a_whole_run_can_fail() -> None:
    given = zoo.parser().parse_args
    assert zoo.whole(given([]))
    for words in (["--models", "clip"], ["--targets", "onnx"], ["--no-single"], ["--quick"]):
        assert not zoo.whole(given(words))


def test_an_entry_that_cannot_be_taken_apart_is_told_by_check(tmp_path: Path) -> None:
    def branching() -> tuple[nn.Module, ModelSpec]:
        return Branching(), described("branching", *(tensor(name, shape=(1, 4)) for name in ("left", "right")))

    entry = Entry(branching)
    row = worker.find_stages(entry)
    assert row.error is not None
    with patch.dict(ENTRIES, {"branching": entry}):
        said = worker.checked(entry, tmp_path, "onnx")
    assert said == (row.error,)


class Branching(nn.Module):
    """Decides by what it sees, which no trace can follow."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 8)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        found: Tensor = self.head(left if float(left.sum()) > 0 else right)
        return found


def _steps(folder: Path, *steps: str, single: bool) -> list[Target]:
    worker.steps(ENTRIES["tabular_image"], folder, steps, single=single, every_scheme=False)
    return [msgspec.json.decode(worker.told_in(folder, step).read_bytes(), type=Target) for step in steps]


def test_an_entry_compiles_for_onnx(tmp_path: Path) -> None:
    (made,) = _steps(tmp_path, "made:onnx", single=False)
    assert made.compiled
    assert made.error is None
    assert made.max_abs_error is not None
    assert made.max_abs_error < 1e-4
    assert (made.speedup_over_float, made.schemes, made.single_stage_seconds) == (None, {}, None)
    with open_bundle(next((tmp_path / "onnx").glob("*.edgefuse"))) as bundle:
        assert [stage.name for stage in bundle.manifest.stages] == ["table_encoder", "picture_encoder", "fusion"]


@pytest.mark.exhaustive
def test_an_entry_is_timed_and_compared(tmp_path: Path) -> None:
    made, timed = _steps(tmp_path, "made:onnx", "timed:onnx", single=True)
    assert (made.error, made.single_stage_error, timed.error) == (None, None, None)
    assert timed.compiled
    assert timed.speedup_over_float is not None
    assert timed.speedup_single_stage is not None
    assert timed.speedup_single_stage_ci95 is not None
    assert set(timed.schemes) == {"table_encoder", "picture_encoder", "fusion"}
