"""A variant of a stage that cannot be used is left out with its reason, and costs no target its bundle."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgefuse.bundle.manifest import Pruning, PruningStep
from edgefuse.bundle.reader import open_bundle
from edgefuse.bundle.scheme import Scheme
from edgefuse.bundle.spec import StageSpec
from edgefuse.compiler import compile
from edgefuse.compiler.candidates.build import Hold
from edgefuse.compiler.candidates.golden import GoldenInputs, golden_inputs
from edgefuse.compiler.candidates.toolchain import Toolchain
from edgefuse.compiler.recovery.forms import Forms, Recovery
from edgefuse.compiler.report.compiled import prunings
from edgefuse.compiler.report.encoding import parse
from edgefuse.compiler.report.schema import CandidateReport
from edgefuse.compiler.timing import Contender, DraftRung, RungTimes, StageTime
from edgefuse.compiler.timing.here import Here
from edgefuse.compiler.timing.refusing import rung_times, stage_times
from edgefuse.datasets.cache import Cache
from edgefuse.errors import BackendError, CheckError, DeviceError, DeviceTaskError, EdgefuseError, ModelError
from edgefuse.export.onnx.target import OnnxTarget
from edgefuse.export.target import Lowered
from edgefuse.quantize.onnx.quantizer import OnnxQuantizer
from edgefuse.stages.explicit import split
from edgefuse.stages.stage import TorchStage
from tests.stages.tables import Rows, model


def pruned_by(method: str) -> Pruning:
    return Pruning(steps=(PruningStep(method=method, ratio=0.5),), recovery="alone")


HALVED = pruned_by("structured")

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
        self.first, self.second = nn.Linear(64, 128), nn.Linear(128, 64)

    def forward(self, values):
        return self.second(torch.relu(self.first(values)))


class Fusion(nn.Linear):
    def forward(self, features, present):
        return super().forward(features["table"])


def build():
    torch.manual_seed(0)
    outputs = (spec.ClassOutput(labels=("low", "high")),)
    table = spec.tensor("table", shape=(1, 64))
    described = spec.ModelSpec(name="tabular", modalities=(table,), outputs=outputs)
    return FusionModel(described, {"table": Encoder()}, Fusion(64, 2)).eval()


def data():
    rng = np.random.default_rng(0)
    items = [Sample({"table": rng.standard_normal((1, 64), np.float32)}, int(n % 2)) for n in range(48)]
    return Splits(calibration=items[:8], validation=items[8:24], test=items[24:40], train=items[40:], digest="tabular")
"""

RECIPE = """
[model]
factory = "tabular_model:build"
[data]
factory = "tabular_model:data"
[compile]
targets = ["onnx"]
[schemes]
table_encoder = ["float", "fp16", "dynamic_wi8_af32"]
fusion = ["float"]
[search]
max_drop = 0.9
max_fusion_passes = 2
[[prune.variants]]
stages = ["table_encoder"]
steps = [{ method = "structured", ratio = 0.5 }]
[recover]
epochs = 0
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "tabular_model.py").write_text(MODULE)
    (tmp_path / "recipe.toml").write_text(RECIPE)
    return tmp_path / "recipe.toml"


def excluded(report: Path) -> dict[str, str]:
    rows: list[CandidateReport] = [*parse(json.loads(report.read_bytes())).stages]
    return {row.candidate: row.excluded for row in rows if row.excluded and row.p50 is None}


def test_files_that_disagree_or_are_refused_cost_the_target_nothing_but_themselves(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lower, apply = OnnxTarget.lower, OnnxQuantizer.apply

    def other(self: OnnxTarget, stage: TorchStage) -> Lowered:
        """Of a pruned stage, a file that computes something else."""
        if stage.pruning is None:
            return lower(self, stage)
        return lower(self, replace(stage, module=nn.Sequential(stage.module, nn.Tanh()).eval()))

    def damaged(self: OnnxQuantizer, lowered: Lowered, scheme: Scheme, calibration: Any) -> Lowered:
        made = apply(self, lowered, scheme, calibration)
        return replace(made, data=b"no file") if scheme.name == "fp16" else made

    monkeypatch.setattr(OnnxTarget, "lower", other)
    monkeypatch.setattr(OnnxQuantizer, "apply", damaged)
    result = compile(recipe, tmp_path / "out", cache=tmp_path / "cache")
    assert not result.failed
    with open_bundle(result.bundles[0]) as bundle:
        bundle.verify()
    found = excluded(result.report_json)
    assert set(found) == {"table_encoder.structured50-raw.float", "table_encoder.fp16"}
    assert found["table_encoder.structured50-raw.float"].startswith("broken: ")
    assert found["table_encoder.fp16"].startswith("ONNX Runtime cannot open")


def test_a_file_that_cannot_be_timed_costs_the_target_nothing_but_itself(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Here.stage

    def fails(self: Here, spec: StageSpec, contenders: Sequence[Contender], threads: int) -> Mapping[str, StageTime]:
        """Time files, of which the runtime gives up one while they run."""
        if any(one.built.id == "table_encoder.fp16" for one in contenders):
            raise BackendError("ONNX Runtime gave up on the table")
        return stage(self, spec, contenders, threads)

    monkeypatch.setattr(Here, "stage", fails)
    result = compile(recipe, tmp_path / "out", cache=tmp_path / "cache")
    assert not result.failed
    assert excluded(result.report_json) == {"table_encoder.fp16": "ONNX Runtime gave up on the table."}


def test_without_the_time_of_its_float_file_a_target_ends_and_a_device_that_is_away_ends_more() -> None:
    def contender(name: str) -> Any:
        return SimpleNamespace(built=SimpleNamespace(id=name))

    def timer(bad: str, error: EdgefuseError) -> Any:
        def stage(spec: StageSpec, contenders: Sequence[Any], threads: int) -> dict[str, int]:
            names = [one.built.id for one in contenders]
            if bad in names:
                raise error
            return dict.fromkeys(names, len(names))

        return SimpleNamespace(stage=stage)

    files, refused = [contender(name) for name in "abcdef"], BackendError("no room for it")
    times, why = stage_times(timer("d", refused), None, files, 1)  # type: ignore[arg-type] # no stage is read
    assert set(times) == set("abcef")
    assert why == {"d": "no room for it."}
    on_device = DeviceTaskError("on the device: no room for it")
    assert stage_times(timer("d", on_device), None, files, 1)[1].keys() == {"d"}  # type: ignore[arg-type]
    with pytest.raises(BackendError, match="no room"):
        stage_times(timer("a", refused), None, files, 1)  # type: ignore[arg-type]
    with pytest.raises(DeviceError, match="it went away"):
        stage_times(timer("d", DeviceError("it went away")), None, files, 1)  # type: ignore[arg-type]


def refuse_rungs(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    """Let the runtime give up whenever a rung is timed."""
    rungs = Here.rungs

    def fails(self: Here, drafts: Sequence[DraftRung], *arguments: Any) -> RungTimes:
        if any(draft.key == key for draft in drafts):
            raise BackendError(f"the runtime gave up on {key}")
        return rungs(self, drafts, *arguments)

    monkeypatch.setattr(Here, "rungs", fails)


def test_a_default_rung_that_cannot_be_timed_gives_its_place_to_the_float_files(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_rungs(monkeypatch, "onnx/fast")
    result = compile(recipe, tmp_path / "out", cache=tmp_path / "cache")
    assert not result.failed
    with open_bundle(result.bundles[0]) as bundle:
        assert bundle.manifest.default_rung == "fast"
        floats = {"table_encoder": "table_encoder.float", "fusion": "fusion.float"}
        assert bundle.manifest.rung("fast").candidates == floats
    notes = parse(json.loads(result.report_json.read_bytes())).notes
    assert "onnx, fast: what was chosen cannot be timed, and is left out: the runtime gave up on onnx/fast." in notes


def test_a_target_whose_float_rung_cannot_be_timed_costs_the_others_nothing(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe.write_text(RECIPE.replace('["onnx"]', '["onnx", "tflite"]').partition("[[prune")[0])
    refuse_rungs(monkeypatch, "tflite/float")
    result = compile(recipe, tmp_path / "out", cache=tmp_path / "cache")
    assert [path.name for path in result.bundles] == ["tabular-onnx.edgefuse"]
    why = "the float files of 'tflite' cannot be timed together: the runtime gave up on tflite/float."
    assert dict(result.failed) == {"tflite": why}


def test_rungs_that_cannot_be_timed_are_found_among_those_of_all_targets() -> None:
    def draft(key: str) -> Any:
        target, _, _ = key.partition("/")
        return SimpleNamespace(key=key, float_key=f"{target}/float")

    def times(bad: str, error: EdgefuseError) -> Callable[[Sequence[Any]], Any]:
        def time(drafts: Sequence[Any]) -> list[str]:
            keys = [one.key for one in drafts]
            assert {one.float_key for one in drafts} <= set(keys), "a rung is compared with its float files"
            if bad in keys:
                raise error
            return keys

        return time

    drafts, gone = [draft(f"{t}/{name}") for t in ("a", "b") for name in ("fast", "small", "float")], "no room for it"
    found, why = rung_times(times("b/small", BackendError(gone)), drafts)
    assert why == {"b/small": f"{gone}."}
    assert sorted(found) == ["a/fast", "a/float", "a/small", "b/fast", "b/float"]  # type: ignore[call-overload]
    found, why = rung_times(times("b/float", BackendError(gone)), drafts)
    assert sorted(why) == ["b/fast", "b/float", "b/small"]
    assert sorted(found) == ["a/fast", "a/float", "a/small"]  # type: ignore[call-overload]
    with pytest.raises(BackendError, match=gone):
        rung_times(times("a/float", BackendError(gone)), drafts[:3])
    with pytest.raises(DeviceError, match="it went away"):
        rung_times(times("a/fast", DeviceError("it went away")), drafts)


class Reciprocal(nn.Module):
    """Half of another module's answers, and what divides by nothing where there are few steps."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor, length: Tensor) -> Tensor:
        y: Tensor = self.module(x, length)
        return y / (x.shape[1] // 10)


@pytest.fixture(scope="module")
def stages() -> tuple[TorchStage, ...]:
    torch.manual_seed(0)
    return split(model(Rows()))


def held(stages: tuple[TorchStage, ...], *variants: TorchStage) -> GoldenInputs:
    return golden_inputs(stages, model(Rows()).spec, variants)


def test_a_pruned_form_that_gives_no_numbers_at_some_size_is_left_out(stages: tuple[TorchStage, ...]) -> None:
    good = replace(stages[0], pruning=pruned_by("hidden"))
    bad = replace(stages[0], module=Reciprocal(stages[0].module).eval(), pruning=HALVED)
    golden = held(stages, good, bad)
    recoveries = tuple(Recovery("rows_encoder", one.pruning, ()) for one in (good, bad) if one.pruning)
    kept = {("rows_encoder", "structured50"): ("a width",)}
    forms = Forms(stages, {"rows_encoder": (good, bad)}, recoveries, kept=kept).without(golden.refused)
    assert forms.of("rows_encoder") == (stages[0], good)
    assert [one.pruning for one in forms.recoveries] == [good.pruning]
    (line,) = prunings(forms)
    assert (line.stage, line.pruning, line.kept) == ("rows_encoder", "structured50", ())
    assert line.refused.startswith(
        "the output 'feature' of the stage 'rows_encoder', pruned by structured50, is not finite on generated inputs"
    )
    with pytest.raises(ModelError, match="the output 'feature' of the stage 'rows_encoder' is not finite"):
        held((replace(stages[0], module=bad.module), *stages[1:]))


@pytest.fixture
def hold(stages: tuple[TorchStage, ...], tmp_path: Path) -> Callable[..., Any]:
    """Hold a file of the first stage, pruned or not, to what torch makes of it, or to other answers."""
    cache = Cache(tmp_path / "cache")

    def run(pruning: Pruning | None, *, agrees: bool = True, opens: bool = True) -> Any:
        stage = replace(stages[0], pruning=pruning)
        golden = held(stages, *([stage] if pruning else []))
        if not agrees:
            key = (stage.spec.name, pruning.id if pruning else "")
            wrong = [{name: value + 1 for name, value in one.items()} for one in golden.outputs[key]]
            golden = replace(golden, outputs={**golden.outputs, key: wrong})
        built = Toolchain.of("onnx", cache).lower(stage)
        if not opens:
            path = tmp_path / "damaged.onnx"
            path.write_bytes(b"no file")
            built = replace(built, path=path, sha256=sha256(b"no file").hexdigest())
        return Hold(golden, cache)(("onnx", built))

    return run


def test_a_file_of_the_unpruned_stage_in_float_is_one_that_a_target_needs(hold: Callable[..., Any]) -> None:
    assert hold(None).row.ok
    with pytest.raises(CheckError, match=r"the file of 'rows_encoder\.float' does not agree with torch"):
        hold(None, agrees=False)
    with pytest.raises(BackendError, match=r"the file of 'rows_encoder\.float' cannot be used: ONNX Runtime"):
        hold(None, opens=False)


def test_a_file_of_a_pruned_stage_is_not(hold: Callable[..., Any]) -> None:
    assert hold(HALVED).row.ok
    assert not hold(HALVED, agrees=False).row.ok
    assert hold(HALVED, opens=False).startswith("ONNX Runtime")
