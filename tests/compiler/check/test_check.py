"""What a check finds, on small models of which one thing is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import edgefuse
from edgefuse.compiler.check.budget import unholdable
from edgefuse.compiler.check.record import Check
from edgefuse.compiler.check.sizes import found_stages
from edgefuse.compiler.compilation import compile
from edgefuse.errors import DataError, ModelError
from edgefuse.export.onnx.target import OnnxTarget
from edgefuse.stages.found import find
from edgefuse.stages.stage import parameters_of
from tests.stages.found.models import Siamese, siamese_spec

PRUNE = """
[[prune.variants]]
stages = ["motion_encoder", "words_encoder", "fusion"]
steps = [{ method = "structured", ratio = 0.5 }]
"""


def test_a_sound_model_shows_its_stages_and_what_a_compile_will_take(checked: Callable[..., Check]) -> None:
    found = checked()
    stages = {stage.name: stage for stage in found.stages}
    assert list(stages) == ["motion_encoder", "words_encoder", "fusion"]
    assert [stages[name].parameters for name in stages] == [6 * 16 + 16 + 16 * 8 + 8, 50 * 8, 16 * 3 + 3]
    assert stages["motion_encoder"].mac == 8 * (6 * 16 + 16 * 8) + 8 * 8  # two layers at eight steps, and a mean
    assert [stage.crossing_bytes for stage in found.stages] == [32, 32, 0]  # eight floats of each, the answer of none
    assert [(one.target, one.ok, one.size_bytes > 0) for one in found.lowered] == [("onnx", True, True)] * 3
    assert found.samples == {"calibration": (10, 10), "validation": (20, 20), "test": (20, 20)}
    assert not any(finding.stops for finding in found.findings)
    assert found.exit_code == 0
    estimate = found.estimate
    assert estimate is not None
    assert estimate.total_seconds > 0
    assert estimate.candidates == 6 + 6 + 5  # float, and the schemes that are tried on encoders and on a fusion
    assert estimate.memory_bytes > 100e6
    # Nothing is pruned by the recipe: what could be is shown.
    assert {one.stage: (one.asked, one.parameters < stages[one.stage].parameters) for one in found.pruned} == {
        "motion_encoder": (False, True),
        "words_encoder": (False, True),
        "fusion": (False, True),
    }


def test_a_compile_finds_in_the_cache_what_the_check_has_lowered(
    checked: Callable[..., Check], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = checked()

    def again(*_: object) -> None:
        raise AssertionError("lowered twice")

    monkeypatch.setattr(OnnxTarget, "lower", again)
    second = checked()
    assert [one.size_bytes for one in second.lowered] == [one.size_bytes for one in first.lowered]
    assert [one.seconds for one in second.lowered] == [one.seconds for one in first.lowered]  # of the real lowering


def test_what_one_target_cannot_lower_is_its_own_affair(checked: Callable[..., Check]) -> None:
    found = checked("determinant", targets=("onnx", "tflite", "onnx+tflite"))
    refused = [one for one in found.lowered if not one.ok]
    assert [(one.target, one.stage) for one in refused] == [("tflite", "motion_encoder")]
    assert "det" in refused[0].says
    assert "moves_model.py:" in refused[0].says
    assert found.stopped == ("tflite", "onnx+tflite")
    assert found.exit_code == 0
    assert found.estimate is not None


def test_what_no_target_can_lower_ends_with_1_and_names_the_line(checked: Callable[..., Check]) -> None:
    found = checked("eigenvalues", targets=("onnx", "tflite"))
    assert [(one.target, one.stage) for one in found.lowered if not one.ok] == [
        ("onnx", "motion_encoder"),
        ("tflite", "motion_encoder"),
    ]
    assert all("torch.linalg.eigvals" in finding.says for finding in found.findings if finding.about == "target")
    assert found.exit_code == 1
    assert found.estimate is None


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            "batch_mean",
            "the stage 'motion_encoder' mixes the samples of a batch: 'feature' of 3 samples is not what it gives for "
            "each of them alone: got a difference of",
        ),
        ("one_by_one", "the stage 'motion_encoder' fails on a batch of 3, where it takes the same samples one by one"),
    ],
)
def test_a_model_that_mixes_the_samples_of_a_batch_is_refused(
    model: str, message: str, checked: Callable[..., Check], recipe_of: Callable[..., Path], tmp_path: Path
) -> None:
    found = checked(model)
    (stopping,) = [finding for finding in found.findings if finding.stops]
    assert (stopping.about, stopping.stage) == ("model", "motion_encoder")
    assert message in stopping.says
    assert "Fix: keep the first axis of every tensor for the batch" in stopping.says
    assert found.exit_code == 2
    with pytest.raises(ModelError, match=r"the stage 'motion_encoder' (mixes|fails)"):
        compile(recipe_of(model), tmp_path / "out", cache=tmp_path / "cache")
    assert not (tmp_path / "out").exists()


def test_samples_that_are_mixed_in_short_batches_alone_are_found(checked: Callable[..., Check]) -> None:
    (stopping,) = [finding for finding in checked("short_batch", "long").findings if finding.about == "model"]
    assert stopping.stops
    assert "the stage 'motion_encoder' mixes the samples of a batch: 'feature' of 3 samples" in stopping.says


def test_a_stage_that_fails_at_a_size_is_told_in_one_sentence(checked: Callable[..., Check]) -> None:
    found = checked("windowed", "long")
    (stopping,) = [finding for finding in found.findings if finding.stops]
    assert (stopping.about, stopping.stage) == ("model", "motion_encoder")
    assert stopping.says.startswith(
        "the stage 'motion_encoder' fails on inputs that its spec allows, values [1, 4, 6] at 'moves_model.py:"
    )
    assert "got RuntimeError: Calculated padded input size per channel: (4). Kernel size: (5). " in stopping.says
    assert ", expected answers at every size" in stopping.says
    assert (stopping.says.count("got "), stopping.says.count("Fix: ")) == (1, 1)
    assert found.exit_code == 2
    (padding,) = [finding.says for finding in found.findings if finding.about == "padding"]
    assert padding.startswith("the stages do not run at every size of their inputs: the stage 'motion_encoder' fails ")
    assert ("got " in padding, "Fix: " in padding) == (False, False)


def test_a_stage_that_depends_on_padding_is_refused_where_files_pad(checked: Callable[..., Check]) -> None:
    found = checked("padded", "short", targets=("onnx", "tflite"))
    (padding,) = [finding for finding in found.findings if finding.about == "padding"]
    assert padding.stage == "motion_encoder"
    assert "the stage 'motion_encoder' depends on padding: its output 'feature' is" in padding.says
    assert not padding.stops
    assert found.stopped == ("tflite",)
    assert found.exit_code == 0


@pytest.mark.parametrize(
    ("model", "stage", "message"),
    [
        (
            "at_least",
            "motion_encoder",
            "'motion_encoder' fails on inputs that its spec allows, values [1, 4, 6], length [1] at 'moves_",
        ),
        (
            "at_least_by_length",
            "motion_encoder",
            "'motion_encoder' fails on inputs that its spec allows, values [1, 8, 6]",
        ),
        ("shares", "", "the output 'logits' of the stage 'fusion' is not finite on generated inputs"),
    ],
)
def test_what_torch_refuses_at_a_size_or_absence_is_a_finding_beside_the_others(
    model: str, stage: str, message: str, checked: Callable[..., Check], recipe_of: Callable[..., Path], tmp_path: Path
) -> None:
    found = checked(model, more=PRUNE, targets=("onnx", "tflite"))
    stopping = [finding for finding in found.findings if finding.stops and not finding.target]
    assert [(finding.about, finding.stage) for finding in stopping] == [("model", stage)]
    assert message in stopping[0].says
    assert [one.stage for one in found.pruned] == ["motion_encoder", "words_encoder", "fusion"]  # tried all the same
    assert found.exit_code == 2
    with pytest.raises(ModelError, match=r"Fix: (mend that line of the model|look for means over nothing)"):
        compile(recipe_of(model), tmp_path / "out", cache=tmp_path / "cache")


def test_what_the_recipe_prunes_is_tried_before_any_recovery(checked: Callable[..., Check]) -> None:
    found = checked(more=PRUNE)
    tried = {one.stage: one for one in found.pruned}
    assert all(one.asked for one in found.pruned)
    assert tried["motion_encoder"].parameters == 6 * 8 + 8 + 8 * 8 + 8
    assert (tried["motion_encoder"].widths, tried["motion_encoder"].narrows) == (2, 1)
    assert any("'second' keeps its 8 channels" in reason for reason in tried["motion_encoder"].stays)
    assert "the stage 'fusion' holds nothing that 'structured' can prune" in tried["fusion"].says
    (left,) = [finding for finding in found.findings if finding.about == "pruning" and finding.stage == "fusion"]
    assert left.says.startswith("'fusion' is left unpruned: ")
    assert not left.stops
    assert "prune and recover" in getattr(found.estimate, "seconds", {})


def test_a_limit_that_nothing_can_hold_is_told(checked: Callable[..., Check]) -> None:
    found = checked(more="max_size_bytes = 100\nmax_memory_bytes = 200\n")
    said = [finding.says for finding in found.findings if finding.about == "budget" and finding.stops]
    assert said == [
        "[search] max_size_bytes cannot be held: got 100, where 699 weights take 349 bytes in four bits each. "
        "Fix: raise it, or prune more.",
        "[search] max_memory_bytes cannot be held: got 200, where 699 weights take 349 bytes in four bits each. "
        "Fix: raise it, or prune more.",
    ]
    assert found.exit_code == 1


def test_a_budget_finer_than_a_single_sample_is_told(recipe_of: Callable[..., Path], cache_folder: Path) -> None:
    path = recipe_of()
    path.write_text(path.read_text(encoding="utf-8").replace("max_drop = 0.2", "max_drop = 0.01"), encoding="utf-8")
    found = edgefuse.check(path, cache=cache_folder)
    said = [finding.says for finding in found.findings if finding.about == "budget"]
    assert said[0] == (
        "'validation' has 20 samples of motion+words: a single wrong answer is 5 points, and [search] max_drop allows 1"
    )
    assert found.exit_code == 0


def test_every_fault_of_the_data_is_told_in_one_go(
    checked: Callable[..., Check], recipe_of: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = checked(data="many_faults")
    said = [finding.says for finding in found.findings if finding.about == "data"]
    assert len(said) == 6, said
    assert "have no digest" in said[0]
    assert said[1] == (
        "the target of sample 2 of 'calibration' does not fit the model's output: got 7, expected a class from 0 to 2; "
        "so have samples 4, 5, 9."
    )
    assert "sample 3 of 'validation' is wrong: 'motion.values' holds values that are not finite" in said[2]
    assert "sample 3 of 'validation' is wrong: 'words.values' has the wrong shape" in said[3]
    assert "the target of sample 3 of 'validation' does not fit the model's output: got -1" in said[4]
    assert "sample 0 of 'test' has the wrong type: got str" in said[5]
    assert found.exit_code == 2
    assert all(one.ok for one in found.lowered)  # they keep nobody from looking at the rest
    with pytest.raises(DataError, match="have no digest"):
        compile(recipe_of(data="many_faults"), tmp_path / "out", cache=tmp_path / "cache")
    assert sum("sample" in record.getMessage() for record in caplog.records) == 5


def test_a_sample_that_the_model_cannot_answer_is_named(checked: Callable[..., Check]) -> None:
    found = checked(data="beyond_the_table")
    (stopping,) = [finding for finding in found.findings if finding.stops]
    assert stopping.says.startswith("the model fails on sample 17 of 'test': got IndexError: ")
    assert found.exit_code == 2


def test_what_only_looks_odd_stands_in_nobodys_way(checked: Callable[..., Check]) -> None:
    found = checked(data="odd")
    said = [finding.says for finding in found.findings if finding.about == "data"]
    assert "'words' is the same in all 10 samples of 'calibration'" in said
    assert "no sample of 'validation' is of 'running': nothing is known about these classes" in said
    assert any(line.startswith("2 samples of 'test' have the inputs of samples of 'validation'") for line in said)
    assert any(line.startswith("groups have samples in 'calibration' and in 'validation': 'pump 7'.") for line in said)
    assert found.exit_code == 0


def test_the_library_has_the_same_check() -> None:
    from edgefuse.compiler.check.checking import check

    assert edgefuse.check is check


def test_a_file_that_stages_share_takes_its_bytes_once() -> None:
    torch.manual_seed(0)
    made = find(Siamese(), siamese_spec())
    weights = parameters_of(made.module)
    search = SimpleNamespace(max_size_bytes=weights // 2, max_memory_bytes=weights // 2)
    model: Any = SimpleNamespace(stages=made.stages, recipe=SimpleNamespace(search=search))
    assert not list(unholdable(model, found_stages(made.stages, {}), ()))
    search.max_size_bytes -= 1
    (told,) = unholdable(model, found_stages(made.stages, {}), ())
    assert f"where {weights} weights take" in told.says
