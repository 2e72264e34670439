"""The comparison with peers, on a toy: no peer is installed here, workers run in this very environment."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.peers import catalogue, protocol, table, worker
from benchmarks.peers.contender import Contender
from benchmarks.peers.environment import REQUIREMENTS, interpreter
from benchmarks.peers.protocol import Worker, last_words
from benchmarks.peers.subject import Array, Description, Feeds, Input, Subject, write
from benchmarks.peers.timing import interleave
from benchmarks.peers.whole import whole_stage
from edgefuse.bundle.spec import tensor
from edgefuse.compiler.recipe.described import ModelSection
from edgefuse.errors import MeasureError, RecipeError
from edgefuse.measure.latency import Latencies
from edgefuse.progress import silent
from edgefuse.stages.found import find
from tests.stages.found import models

SUBSETS = (("image", "text"), ("image",), ("text",))


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    about = Description(
        model="toy",
        recipe="recipe.toml",
        inputs=(
            Input("image_pixels", "image.pixels", "float32", (1, 2)),
            Input("text_ids", "text.ids", "int32", (1, 3)),
            Input("present", "present", "float32", (1, 2)),
        ),
        outputs=("logits",),
        modalities=("image", "text"),
        subsets=SUBSETS,
        metric="accuracy",
        max_drop=0.01,
        digest="0",
    )
    values = {
        "image.pixels": np.arange(1, 9, dtype=np.float32).reshape(4, 1, 2),
        "text.ids": np.ones((4, 1, 3), np.int32),
        "#target": np.array([0, 1, 0, 1]),
        "#present": np.array([[1, 1], [1, 0], [1, 1], [0, 1]], bool),
    }
    return write(tmp_path / "subject", about, {"calibration": values, "test": values})


def logits(feeds: Feeds) -> Array:
    return np.array([[float(feeds["image_pixels"].sum()), float(feeds["present"].sum())]], np.float32)


def contender(folder: Path, name: str, runtime: str = "litert", kind: str = "peer") -> Contender:
    return Contender(name, runtime, "1", "", Path(sys.executable), folder / "model", 10, folder, kind)


def test_a_model_whose_stages_were_found_is_compared_as_a_whole() -> None:
    module = models.Plain().eval()
    taken = find(module, models.described(tensor("sound", shape=(1, 5, 8)), tensor("motion", shape=(1, 5, 6))))
    assert len(taken.stages) > 1
    compiled: Any = SimpleNamespace(module=taken.module, stages=taken.stages, spec=taken.spec)
    stage = whole_stage(compiled)
    assert [port.source.owner for port in stage.spec.inputs] == ["sound", "motion"]
    assert [port.tensor.name for port in stage.spec.outputs] == [output.name for output in taken.spec.outputs]
    sound, motion = torch.randn(1, 5, 8), torch.randn(1, 5, 6)
    torch.testing.assert_close(stage.module(sound, motion), module(sound=sound, motion=motion)["logits"])


def test_an_onnx_file_is_not_compared_with_what_reads_torch() -> None:
    recipe = SimpleNamespace(model=ModelSection(onnx="model.onnx"))
    compiled: Any = SimpleNamespace(module=None, recipe=recipe, spec=SimpleNamespace(name="mine"))
    with pytest.raises(RecipeError, match="peers cannot be compared on 'mine': got an ONNX file, expected a torch mod"):
        whole_stage(compiled)


def test_a_subject_survives_the_way_through_its_files(subject: Subject) -> None:
    again = Subject(subject.folder)
    assert again.about == subject.about
    assert again.about.inputs[1].shape == (1, 3)


def test_feeds_are_zeros_for_what_is_not_in_the_subset(subject: Subject) -> None:
    feeds = subject.split("test").feeds(0, ("text",))
    assert list(feeds) == ["image_pixels", "text_ids", "present"]
    assert feeds["present"].tolist() == [[0, 1]]
    assert not feeds["image_pixels"].any()
    assert feeds["text_ids"].all()


def test_only_items_that_have_a_subset_are_judged_for_it(subject: Subject) -> None:
    split = subject.split("test")
    assert split.items(("image", "text")) == [0, 2]
    assert split.items(("image",)) == [0, 1, 2]


def test_calibration_shows_every_item_in_full_and_absence_as_well(subject: Subject) -> None:
    masks = [feeds["present"][0].tolist() for feeds in subject.calibration()]
    assert masks.count([1, 1]) >= 2
    assert [1, 0] in masks
    assert [0, 1] in masks


def test_a_worker_answers_until_its_commands_end(subject: Subject, tmp_path: Path) -> None:
    answers = tmp_path / "answers.npz"
    asked = [{"do": "judge", "items": 2, "file": str(answers)}, {"do": "time", "settle": 1, "burst": 3}]
    replies = io.StringIO()
    worker.serve(logits, subject, io.StringIO("".join(json.dumps(line) + "\n" for line in asked)), replies)
    ready, judged, timed = [json.loads(line) for line in replies.getvalue().splitlines()]
    assert ready == {"ready": True}
    assert judged == {"file": str(answers)}
    assert len(timed["ns"]) == 3
    assert min(timed["ns"]) > 0
    with np.load(answers) as found:
        assert {name: found[name].shape for name in found.files} == {
            "image+text": (2, 2),
            "image": (2, 2),
            "text": (2, 2),
        }


def test_a_burst_is_timed_after_untimed_calls_on_items_in_turn(subject: Subject) -> None:
    calls: list[float] = []

    def call(feeds: Feeds) -> Array:
        calls.append(float(feeds["image_pixels"].sum()))
        return logits(feeds)

    replies = io.StringIO()
    worker.serve(call, subject, io.StringIO('{"do": "time", "settle": 2, "burst": 3}\n'), replies)
    assert calls == [3.0, 11.0, 3.0, 11.0, 3.0]
    assert len(json.loads(replies.getvalue().splitlines()[-1])["ns"]) == 3


def test_a_worker_that_cannot_open_its_file_says_why(subject: Subject, tmp_path: Path) -> None:
    with pytest.raises(MeasureError, match=r"No module named 'benchmarks\.peers\.runtimes\.nowhere'"):
        Worker(Path(sys.executable), "nowhere", tmp_path / "model", subject.folder, tmp_path / "log")


def test_a_peer_that_fails_to_build_says_why(subject: Subject, tmp_path: Path) -> None:
    arguments = ["nobody", "default", str(subject.folder), str(tmp_path)]
    with pytest.raises(MeasureError, match="ModuleNotFoundError"):
        protocol.build(Path(sys.executable), arguments, tmp_path / "log", 60)


def test_the_last_exception_of_a_log_is_the_reason(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(
        "note\nTraceback (most recent call last):\n  File x\nKeyError: 'a'\n\nDuring handling\n"
        "Traceback (most recent call last):\n  File y\n    run()\n    ^^^\nvendor.errors.Fail: no rule\nfor Foo\n"
    )
    assert last_words(log, 1) == "vendor.errors.Fail: no rule for Foo"


def test_a_process_that_says_nothing_ends_with_its_code(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("")
    assert last_words(log, -11) == "ended with code -11"


class Stub(Worker):
    """A worker that is no process: it takes the time it is given, or fails after some rounds."""

    def __init__(self, nanoseconds: int, rounds: int = 1000) -> None:
        self.process = os.getpid()
        self.nanoseconds = nanoseconds
        self.left = rounds

    def time(self, settle: int, burst: int) -> list[int]:
        self.left -= 1
        if self.left < 0:
            raise MeasureError("killed")
        return [self.nanoseconds] * burst


def test_whoever_fails_during_the_rounds_leaves_the_others_alone() -> None:
    workers = {"fast": Stub(1_000_000), "slow": Stub(3_000_000), "dies": Stub(1, rounds=20)}
    latencies, failed = interleave(workers, rounds=64, warmup=2, seed=0, progress=silent)
    assert latencies.rounds == 64
    assert latencies.ratio("slow", "fast").value == 3
    assert sorted(latencies.nanoseconds) == ["fast", "slow"]
    assert failed == {"dies": "killed."}


def timed(**milliseconds: float) -> Latencies:
    return Latencies(
        {name.replace("_", " "): np.full(64, round(1e6 * ms), np.int64) for name, ms in milliseconds.items()}
    )


def test_a_system_meets_the_pruned_bundle_of_its_own_runtime(tmp_path: Path) -> None:
    ours = [
        contender(tmp_path, "edgefuse onnx", "onnxruntime", "unpruned"),
        contender(tmp_path, "edgefuse tflite", "litert", "unpruned"),
        contender(tmp_path, "edgefuse tflite pruned", "litert", "pruned"),
    ]
    latencies = timed(edgefuse_onnx=1.0, edgefuse_tflite=3.0, edgefuse_tflite_pruned=2.0)
    assert table.opponent(contender(tmp_path, "a", "litert"), ours, latencies) == "edgefuse tflite pruned"
    assert table.opponent(contender(tmp_path, "b", "onnxruntime"), ours, latencies) == "edgefuse onnx"
    assert table.opponent(contender(tmp_path, "c", "openvino"), ours, latencies) == "edgefuse tflite pruned"
    assert table.opponent(contender(tmp_path, "d", "openvino"), [], latencies) == ""


def test_a_row_says_what_was_lost_and_by_how_much_edgefuse_is_faster(subject: Subject, tmp_path: Path) -> None:
    right = {"image+text": np.eye(2)[[0, 0]], "image": np.eye(2)[[0, 1, 0]], "text": np.eye(2)[[0, 0, 1]]}
    wrong = {**right, "text": np.eye(2)[[1, 0, 1]]}
    latencies = timed(peer=4.0, ours=2.0)
    row = table.row(subject, contender(tmp_path, "peer"), wrong, right, latencies, "ours")
    assert row["accuracy"]["image"] == 1
    assert row["edgefuse_speedup"] == {"ratio": 2.0, "ci95": [2.0, 2.0], "against": "ours"}
    assert row["p50_ms"] == 4.0
    assert (row["worst_subset"], row["within_budget"]) == ("text", False)
    assert row["worst_drop"] == pytest.approx(1 / 3)
    required = {"model", "system", "version", "accuracy", "p50_ms", "size_bytes", "edgefuse_speedup", "error"}
    assert required <= set(row)
    assert required == set(table.failure(subject, "peer", "1", "no rule"))


def test_the_table_keeps_losses_and_failures(subject: Subject, tmp_path: Path) -> None:
    answers = {"image": np.eye(2)[[0, 1, 0]]}
    latencies = timed(peer=1.0, ours=2.0)
    rows = [
        table.failure(subject, "broken", "1", "QuantError: a | b"),
        table.row(subject, contender(tmp_path, "ours"), answers, answers, latencies, "ours"),
        table.row(subject, contender(tmp_path, "peer"), answers, answers, latencies, "ours"),
    ]
    lines = table.markdown(rows).splitlines()
    assert "| 0.50 (0.50–0.50) |" in lines[2]
    assert lines[3].startswith("| ours |")
    assert "failed: QuantError: a / b" in lines[4]


def test_every_system_has_its_module_its_requirements_and_its_runtime() -> None:
    folder = Path(catalogue.__file__).parent
    for system in (catalogue.REFERENCE, *catalogue.SYSTEMS):
        assert (folder / "quantizers" / f"{system.quantizer}.py").is_file()
        assert (folder / "runtimes" / f"{system.runtime}.py").is_file()
        for environment in filter(None, (system.environment, system.runs_in)):
            assert environment == "project" or (REQUIREMENTS / f"{environment}.txt").is_file()
    assert len(set(catalogue.names())) == len(catalogue.names())


def test_requirements_are_pinned() -> None:
    for path in REQUIREMENTS.glob("*.txt"):
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
        assert all("==" in line for line in lines), path


def test_an_environment_that_cannot_be_made_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "odd.txt").write_text("no-such-distribution-anywhere==1.0\n")
    monkeypatch.setattr("benchmarks.peers.environment.REQUIREMENTS", tmp_path)
    monkeypatch.setenv("PIP_ARGS", f"--no-index --find-links {tmp_path}")
    with pytest.raises(MeasureError, match="the environment 'odd' cannot be made"):
        interpreter("odd", tmp_path / "environments")
