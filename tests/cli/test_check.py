"""`edgefuse check`: what it prints, and its exit codes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import msgspec
import pytest

from edgefuse import cli
from edgefuse.commands.check import rendered
from edgefuse.compiler.check.record import Check, Estimate, Finding, FoundStage, LoweredStage, PrunedStage

OWN = Path(__file__).parents[1] / "compiler" / "own"

FOUND = Check(
    model="door",
    targets=("onnx", "tflite"),
    stages=(
        FoundStage(
            name="image_encoder", role="encoder", modality="image", parameters=51616, mac=346112, crossing_bytes=128
        ),
        FoundStage(name="fusion", role="fusion", parameters=9092),
    ),
    notes=("one stage because \x1b[2Jnothing is computed before fusion",),
    lowered=(
        LoweredStage(target="onnx", stage="image_encoder", size_bytes=208200, seconds=1.5, run_ms=0.1),
        LoweredStage(target="onnx", stage="fusion", size_bytes=37900, seconds=1.0, run_ms=0.1),
        LoweredStage(target="tflite", stage="image_encoder", size_bytes=209200, seconds=1.5, run_ms=0.1),
        LoweredStage(target="tflite", stage="fusion", says="litert-torch cannot lower the stage 'fusion'."),
    ),
    pruned=(
        PrunedStage(
            stage="image_encoder",
            pruning="structured50",
            asked=True,
            parameters=21216,
            nonzero=10000,
            widths=6,
            narrows=1,
            stays=tuple(f"'layer{number}' keeps its 32 channels" for number in range(5)),
        ),
        PrunedStage(stage="fusion", pruning="structured50", asked=True, says="it holds nothing to prune."),
    ),
    findings=(
        Finding(about="target", target="tflite", says="litert-torch cannot lower the stage 'fusion'.", stops=True),
        Finding(about="data", says="2 samples of 'test' are in 'validation'"),
    ),
    samples={"calibration": (40, 40), "test": (900, 80000)},
    estimate=Estimate(seconds={"lower": 10.2, "time": 130.0}, memory_bytes=767_000_000, candidates=26),
    seconds=7.4,
)

PRINTED = r"""
door: 2 stages, for onnx, tflite

stages
  stage          role     parameters  multiply-accumulates  crosses per sample
  image_encoder  encoder      51,616               346,112               128 B
  fusion         fusion        9,092                     -                   -
  one stage because \x1b[2Jnothing is computed before fusion

what targets take
  stage, in float  onnx          tflite
  image_encoder    ok, 208.2 kB  ok, 209.2 kB
  fusion           ok, 37.9 kB   no
  tflite, fusion: litert-torch cannot lower the stage 'fusion'.

what prunes (the recipe's variants, tried without recovery)
  stage          pruning       parameters left                    widths that narrow
  image_encoder  structured50  21,216 of 51,616, 10,000 not zero              1 of 6
  fusion         structured50  no                                                  -
  image_encoder, structured50: 'layer0' keeps its 32 channels
  image_encoder, structured50: 'layer1' keeps its 32 channels
  image_encoder, structured50: 'layer2' keeps its 32 channels
  image_encoder, structured50: 'layer3' keeps its 32 channels
  image_encoder, structured50: and 1 more (--json)
  fusion, structured50: it holds nothing to prune.

data
  calibration: 40 of 40 samples read
  test: 900 of 80000 samples read

in the way
  target (tflite): litert-torch cannot lower the stage 'fusion'.

to be known
  data: 2 samples of 'test' are in 'validation'

estimate of the compile, with an empty cache and one job: 2 min for 26 files, 767.0 MB of memory
  lower 10 s, time 2 min

tflite cannot be compiled for, the rest can (checked in 7 s)
""".strip("\n").split("\n")


def test_a_check_is_printed_as_tables() -> None:
    assert rendered(FOUND) == PRINTED


@pytest.mark.parametrize(
    ("findings", "code"),
    [
        ((), 0),
        ((Finding(about="data", says="odd"),), 0),
        ((Finding(about="target", target="onnx", says="no", stops=True),), 0),
        (
            (Finding(about="target", target="onnx", says="", stops=True), Finding(about="budget", says="", stops=True)),
            1,
        ),
        ((Finding(about="budget", says="too small", stops=True),), 1),
        ((Finding(about="data", says="wrong", stops=True),), 2),
        ((Finding(about="model", says="mixes", stops=True), Finding(about="budget", says="", stops=True)), 2),
    ],
)
def test_the_exit_code_says_whether_anything_can_be_compiled(findings: tuple[Finding, ...], code: int) -> None:
    assert msgspec.structs.replace(FOUND, findings=findings).exit_code == code


def test_a_joined_target_fails_with_its_members() -> None:
    joined = msgspec.structs.replace(FOUND, targets=("onnx", "onnx+tflite"))
    assert joined.stopped == ("onnx+tflite",)
    assert joined.exit_code == 0


def test_the_command_writes_what_was_found_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(OWN / "pair.py", tmp_path)
    recipe = shutil.copy(OWN / "recipe.toml", tmp_path)
    assert cli.main(["check", str(recipe), "--cache", str(tmp_path / "cache"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [stage["name"] for stage in found["stages"]] == ["image_encoder", "sensor_encoder", "fusion"]
    assert {one["target"] for one in found["lowered"]} == {"onnx"}
    assert (found["exit_code"], found["stopped"]) == (0, [])
    assert found["estimate"]["candidates"] > 3


def test_a_recipe_that_cannot_be_read_is_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", str(tmp_path / "none.toml")]) == 2
    assert "cannot read the recipe" in capsys.readouterr().err
