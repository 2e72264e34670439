"""doctor: the machine in words, and what follows for int8."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from edgefuse.commands.doctor import BackendState, int8_here
from edgefuse.runtime.processor import Processor

Cli = Callable[..., Any]


def test_doctor_tells_machines_what_is_here(cli: Cli) -> None:
    done = cli("doctor", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert set(report["backends"]) >= {"null", "onnx", "tflite"}
    assert "onnxruntime" in report["backends"]["onnx"]["versions"]
    assert "CPUExecutionProvider" in report["backends"]["onnx"]["about"]["providers"]
    assert report["processor"]["logical_cores"] >= 1
    assert report["numpy"]
    assert report["int8"]
    assert report["packages"]["compile"]["torch"]
    assert {"clocks_pinned", "cooling", "memory_bytes", "power_mode", "throttled"} <= set(report["condition"])


def test_doctor_tells_people_what_the_system_hides(cli: Cli) -> None:
    done = cli("doctor")
    assert done.returncode == 0
    for words in ("CPU features", "governor", "int8 here", "backends", "CPUExecutionProvider", "extra 'compile'"):
        assert words in done.stdout


@pytest.mark.parametrize(
    ("architecture", "features", "words"),
    [
        ("x86_64", ("avx2", "avx_vnni"), "VNNI: nothing saturates"),
        ("x86_64", ("amx_int8", "avx512_vnni"), "AMX multiplies int8 tiles"),
        ("x86_64", ("avx2",), "no VNNI: sums of uint8 x int8 are clipped in onnx, openvino: answers go wrong"),
        ("x86_64", ("avx2",), "exact instead: float, static_wi8_ai8.s8 (slow here), or the int8 of tflite"),
        ("aarch64", ("asimddp",), "the dot product makes int8 fast: s8 activations"),
        ("aarch64", ("asimddp", "i8mm"), "and i8mm multiplies int8 matrices"),
        ("aarch64", (), "no dot product (asimddp): int8 is exact but gains little over float"),
        ("arm64", None, "this system does not tell CPU features"),
    ],
)
def test_what_follows_for_int8_is_said_in_words(
    architecture: str, features: tuple[str, ...] | None, words: str
) -> None:
    backends = {
        "onnx": BackendState({}, saturating=True),
        "openvino": BackendState({}, saturating=True),
        "tensorrt": BackendState({}, missing="is not installed"),
        "tflite": BackendState({}),
    }
    assert words in " ".join(int8_here(Processor("cpu", architecture, 1, 1, features), backends))
