"""What the survey of machines is made of, without a network: comparing, the page, requirements, complaints."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from benchmarks.portability import answers, debian, judge, machines, page, runtimes, wheels
from benchmarks.portability.judge import Question
from benchmarks.portability.machines import Device
from edgefuse.bundle.reader import open_bundle
from edgefuse.errors import DataError, MeasureError

ROW = {
    "bundle": "digits-onnx",
    "machine": "x86-64",
    "python": "3.11.7",
    "backend": "onnx",
    "version": "onnxruntime 1.31.1",
    "verified": True,
    "max_abs_error": 2.5e-7,
    "label_agreement": 0.995,
    "accuracy": 0.95,
}


@pytest.fixture
def question(tiny_bundle: Path, tmp_path: Path) -> Question:
    """The tiny bundle with three items."""
    rng = np.random.default_rng(2)
    tensors: dict[str, Any] = {}
    for item in range(3):
        tensors |= {
            f"{item}/image.pixels": rng.integers(0, 256, (1, 8, 8, 1), dtype=np.uint8),
            f"{item}/text.ids": np.array([[2, 3, 0, 0, 0, 0]], np.int32),
            f"{item}/text.length": np.array([2], np.int32),
            f"{item}/motion.values": rng.normal(size=(1, 4, 3)).astype(np.float32),
            f"{item}/motion.length": np.array([4], np.int32),
        }
    np.savez(tmp_path / "items.npz", **tensors)
    with open_bundle(tiny_bundle) as bundle:
        return Question(tiny_bundle, bundle.manifest, tmp_path / "items.npz", np.zeros(3, int))


def test_every_rung_and_every_float_file_answers(question: Question, tmp_path: Path) -> None:
    answers.main(question.bundle, question.inputs, tmp_path / "answers.npz")
    found = judge.read(tmp_path / "answers.npz")
    assert found["rung/float"].shape == found["rung/small"].shape == (3, 3)
    assert found["float/image_encoder.float/0/feature"].shape == (1, 8)
    assert "float/image_encoder.dynamic_wi8_af32/0/feature" not in found


def test_figures_compare_floats_by_error_and_the_default_rung_by_labels(question: Question) -> None:
    logits = np.eye(3, dtype=np.float32)
    here: dict[str, npt.NDArray[Any]] = {"rung/float": logits, "rung/small": logits, "float/a/0/b": np.zeros(2)}
    there: dict[str, npt.NDArray[Any]] = {
        "rung/float": logits[[0, 1, 0]],
        "rung/small": logits,
        "float/a/0/b": np.array([0.0, -0.5]),
    }
    assert judge.compare(question, there, here) == {
        "max_abs_error": 1.0,
        "label_agreement": pytest.approx(2 / 3),
        "accuracy": pytest.approx(2 / 3),
    }


def test_this_machine_is_a_device_like_any_other(question: Question, tmp_path: Path) -> None:
    site = Path(np.__file__).parents[1]
    device = Device(machines.this(), site, machines.install(tmp_path / "project"), tmp_path)
    judge.verify(device, question.bundle)
    assert judge.answer(device, question, tmp_path / "out")["rung/float"].shape == (3, 3)
    assert judge.runtime(device, "onnx") == f"onnxruntime {version('onnxruntime')}"


def test_a_damaged_bundle_is_a_failure_in_its_own_words(question: Question, tmp_path: Path) -> None:
    (question.bundle / "manifest.json").write_text("{}", encoding="utf-8")
    site = Path(np.__file__).parents[1]
    device = Device(machines.this(), site, machines.install(tmp_path / "project"), tmp_path)
    with pytest.raises(MeasureError, match=r"edgefuse verify failed: got exit code 2, 'edgefuse: .*manifest"):
        judge.verify(device, question.bundle)


def test_the_page_keeps_rows_that_fail() -> None:
    failed = ROW | {"version": "tflite-runtime 2.14.0", "verified": False, "error": "2 files fail: got a|b"}
    text = page.markdown([ROW, failed], 200, ["no arm64 root"])
    assert "| x86-64 | 3.11.7 | onnxruntime 1.31.1 | yes | 2.5e-07 | 99.5 % | 95.0 % |" in text
    assert "| tflite-runtime 2.14.0 | **no**: 2 files fail: got a/b | | | |" in text
    assert "- no arm64 root" in text


def test_devices_get_the_oldest_and_the_newest_runtimes() -> None:
    assert wheels.oldest("onnxruntime", "onnx") in runtimes.oldest("3.11")
    assert f"onnxruntime<={version('onnxruntime')}" in runtimes.newest()
    assert "ai-edge-litert==2.1.0" in runtimes.oldest("3.13")
    with pytest.raises(DataError, match="the extra 'onnx' of edgefuse names no oldest version of torch"):
        wheels.oldest("torch", "onnx")


def test_a_system_without_apt_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(debian, "KEYS", tmp_path)
    (tmp_path / "debian" / debian.RELEASE).mkdir(parents=True)
    monkeypatch.setattr(Path, "is_file", lambda path: True)
    with pytest.raises(DataError, match=r"no root can be put together here: got no program 'apt-get'.* Fix: run it on"):
        debian.unpacked(("python3.13",), "arm64", tmp_path)


def test_a_strange_processor_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with pytest.raises(DataError, match="got riscv64, expected x86_64 or aarch64"):
        debian.own_architecture()
