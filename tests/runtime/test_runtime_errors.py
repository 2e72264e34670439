"""Whatever a runtime raises or answers is one sentence: a `BackendError`, on opening as on running."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgefuse.bundle.manifest import Binding
from edgefuse.errors import BackendError, InputError, cited
from edgefuse.runtime.backends.backend import Backend, OutputPorts, SessionOptions
from edgefuse.runtime.backends.onnx import backend as onnx
from edgefuse.runtime.backends.tflite import backend as tflite
from tests.attack import onnx_files, tflite_files

RAISED = [
    RuntimeError("first\nsecond"),
    ValueError("no"),
    IndexError("off"),
    MemoryError(),
    KeyError("x"),
    OverflowError(),
]


def bindings(kind: str) -> tuple[tuple[Binding, ...], tuple[Binding, ...]]:
    names = ("x", "y") if kind == "onnx" else ("args_0", "output_0")
    shape = (1, 3, 8, 8) if kind == "onnx" else (1, 8, 8, 3)
    ports = (
        Binding(port="x", tensor=names[0], dtype="float32", shape=shape),
        Binding(port="y", tensor=names[1], dtype="float32", shape=(1, 5)),
    )
    return ports[:1], ports[1:]


BACKENDS: dict[str, tuple[Backend, bytes]] = {
    "onnx": (onnx.OnnxBackend(), onnx_files.float_net()),
    "tflite": (tflite.TfliteBackend(), tflite_files.float_net()),
}


@pytest.mark.parametrize("kind", BACKENDS)
@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
def test_what_a_runtime_raises_is_a_sentence(kind: str, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    backend, data = BACKENDS[kind]
    session: Any = backend.open(data, *bindings(kind), SessionOptions())

    def fail(*_: object, **__: object) -> None:
        raise error

    if kind == "onnx":
        monkeypatch.setattr(session, "_run", fail)
        monkeypatch.setattr(onnx, "create", fail)
    else:
        monkeypatch.setattr(session.interpreter, "invoke", fail)
        monkeypatch.setattr(tflite, "Interpreter", fail)
    with pytest.raises(BackendError, match=rf"cannot run a stage: got {cited(error)}\.$"):
        session.run({"x": np.zeros(bindings(kind)[0][0].shape, np.float32)})
    with pytest.raises(BackendError, match=rf"cannot open a stage file: got {cited(error)}\. Fix: "):
        backend.open(data, *bindings(kind), SessionOptions())


@pytest.mark.parametrize("kind", BACKENDS)
def test_wrong_feeds_stay_what_they_are(kind: str) -> None:
    backend, data = BACKENDS[kind]
    session = backend.open(data, *bindings(kind), SessionOptions())
    with pytest.raises(InputError, match="has the wrong type"):
        session.run({"x": np.zeros(bindings(kind)[0][0].shape, np.int32)})


@pytest.mark.parametrize("kind", BACKENDS)
@pytest.mark.parametrize(("dtype", "shape"), [("float32", (1, 6)), ("float32", (5,)), ("int32", (1, 5))])
def test_an_answer_that_the_manifest_does_not_know_is_refused(kind: str, dtype: Any, shape: tuple[int, ...]) -> None:
    backend, data = BACKENDS[kind]
    inputs, (output,) = bindings(kind)
    other = Binding(port="y", tensor=output.tensor, dtype=dtype, shape=shape)
    session = backend.open(data, inputs, (other,), SessionOptions())
    with pytest.raises(BackendError) as caught:
        session.run({"x": np.zeros(inputs[0].shape, np.float32)})
    assert str(caught.value) == (
        "the output 'y' of a stage is not what the manifest says: got float32 [1, 5], "
        f"expected {dtype} {list(shape)} (-1 is any size). Fix: compile the bundle again."
    )


def test_open_sizes_take_anything_and_no_array_is_none() -> None:
    ports = OutputPorts((Binding(port="y", tensor="y", dtype="float32", shape=(1, -1)),))
    assert ports.named([np.zeros((1, 7), np.float32)])["y"].shape == (1, 7)
    with pytest.raises(BackendError, match="got list, expected float32"):
        ports.named([[np.zeros((1, 7), np.float32)]])


def test_a_tflite_file_has_fixed_sizes() -> None:
    inputs, outputs = bindings("tflite")
    opened = Binding(port="x", tensor="args_0", dtype="float32", shape=(1, -1, 8, 3))
    with pytest.raises(BackendError) as caught:
        tflite.TfliteBackend().open(tflite_files.float_net(), (opened,), outputs, SessionOptions())
    assert str(caught.value) == (
        "the tensor 'args_0' of a TFLite file has an open size: got [1, -1, 8, 3], expected fixed sizes, up to which "
        "the runtime pads. Fix: compile the bundle again."
    )
    assert inputs
