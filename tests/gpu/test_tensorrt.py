"""TensorRT on a GPU: engines that are built, kept, opened and run for real.

    python -m pytest tests/gpu -m gpu

These run by themselves where TensorRT and a GPU are; elsewhere they are skipped, and nothing stands in for them.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from edgefuse.bundle.manifest import Binding, BuildPlan, Profile
from edgefuse.errors import BackendError, EngineFileError, InputError
from edgefuse.runtime.backends.backend import Array, SessionOptions

onnx = pytest.importorskip("onnx", reason="onnx writes the graphs of these tests: TensorRT is not checked")

try:
    from edgefuse.runtime.backends.tensorrt.api import EngineBackend

    EngineBackend()
    MISSING = ""
except (ImportError, OSError, BackendError) as error:
    MISSING = f"{error}: building and running engines is not checked"

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(bool(MISSING), reason=MISSING)]

FLOATS = """
<ir_version: 8, opset_import: ["" : 17]>
stage (float[1, STEPS, 8] x, float[8, 16] w) => (float[1, STEPS, 16] y) {
    product = MatMul(x, w)
    y = Tanh(product)
}
"""
MIXED = """
<ir_version: 8, opset_import: ["" : 17]>
stage (uint8[1, 3, 8, 8] pixels) => (float[1, 3, 8, 8] y)
<float scale = {0.5}, int8 zero = {0}, float factor = {3.0}> {
    x = Cast <to = 1> (pixels)
    quantized = QuantizeLinear(x, scale, zero)
    grid = DequantizeLinear(quantized, scale, zero)
    half = Cast <to = 10> (grid)
    three = Cast <to = 10> (factor)
    product = Mul(half, three)
    y = Cast <to = 1> (product)
}
"""
PROFILE = BuildPlan(profiles=(Profile(port="x", minimum=(1, 1, 8), optimum=(1, 4, 8), maximum=(1, 16, 8)),))
RNG = np.random.default_rng(0)
WEIGHT = RNG.normal(size=(8, 16)).astype(np.float32)
Floats = npt.NDArray[np.float32]


def bindings(steps: int) -> tuple[tuple[Binding, ...], tuple[Binding, ...]]:
    inputs = (
        Binding(port="x", tensor="x", dtype="float32", shape=(1, steps, 8)),
        Binding(port="w", tensor="w", dtype="float32", shape=(8, 16)),
    )
    return inputs, (Binding(port="y", tensor="y", dtype="float32", shape=(1, steps, 16)),)


def floats(steps: int | str) -> bytes:
    data: bytes = onnx.parser.parse_model(FLOATS.replace("STEPS", str(steps))).SerializeToString()
    return data


def feeds(steps: int) -> dict[str, Floats]:
    return {"x": RNG.normal(size=(1, steps, 8)).astype(np.float32), "w": WEIGHT}


def expected(given: dict[str, Floats]) -> Floats:
    result: Floats = np.tanh(given["x"] @ given["w"])
    return result


def holds(result: Array, given: dict[str, Floats]) -> None:
    """Compare with numpy, closely enough that TF32 would fail."""
    np.testing.assert_allclose(np.asarray(result, np.float32), expected(given), rtol=1e-4, atol=1e-4)


@pytest.fixture
def engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of engines, empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "edgefuse" / "engines"


@pytest.mark.parametrize("spinning", [False, True])
def test_an_engine_of_fixed_shapes_is_built_kept_and_replayed(
    engines: Path, spinning: bool, caplog: pytest.LogCaptureFixture
) -> None:
    backend, (inputs, outputs) = EngineBackend(), bindings(4)
    assert backend.prepare(floats(4), inputs, SessionOptions()) == "built"
    assert backend.prepare(floats(4), inputs, SessionOptions()) == "known"
    assert len(list(engines.glob("*.engine"))) == 1
    with caplog.at_level(logging.INFO, "edgefuse"):
        session = backend.open(floats(4), inputs, outputs, SessionOptions(spinning=spinning))
    assert "without a CUDA graph" not in caplog.text
    assert "it is built now" not in caplog.text
    kept = [(given, session.run(given)["y"]) for given in (feeds(4) for _ in range(20))]
    for given, result in kept:  # all of them, after the last call
        holds(result, given)


def test_open_shapes_run_within_the_profile(engines: Path) -> None:
    inputs, outputs = bindings(-1)
    session = EngineBackend().open(floats("n"), inputs, outputs, SessionOptions(plan=PROFILE))
    for steps in (1, 16, 3, 4):
        given = feeds(steps)
        holds(session.run(given)["y"], given)
    with pytest.raises(InputError, match="a shape that the engine was not built for"):
        session.run(feeds(17))
    holds(session.run(given)["y"], given)


def test_opening_without_an_engine_builds_it_and_says_so(engines: Path, caplog: pytest.LogCaptureFixture) -> None:
    inputs, outputs = bindings(4)
    EngineBackend().open(floats(4), inputs, outputs, SessionOptions())
    assert "a stage has no engine for this device yet" in caplog.text
    assert len(list(engines.glob("*.engine"))) == 1


def test_explicit_precision_is_kept(engines: Path) -> None:
    data = onnx.parser.parse_model(MIXED).SerializeToString()
    inputs = (Binding(port="pixels", tensor="pixels", dtype="uint8", shape=(1, 3, 8, 8)),)
    outputs = (Binding(port="y", tensor="y", dtype="float32", shape=(1, 3, 8, 8)),)
    session = EngineBackend().open(data, inputs, outputs, SessionOptions())
    pixels = RNG.integers(0, 256, (1, 3, 8, 8), dtype=np.uint8)
    np.testing.assert_array_equal(session.run({"pixels": pixels})["y"], 3 * np.minimum(pixels.astype(np.float32), 63.5))


def test_sparse_weights_may_be_asked_for(engines: Path) -> None:
    inputs, _ = bindings(4)
    assert EngineBackend().prepare(floats(4), inputs, SessionOptions(plan=BuildPlan(sparse_weights=True))) == "built"


def test_a_damaged_engine_is_refused_and_prepare_builds_it_anew(engines: Path) -> None:
    backend, (inputs, outputs) = EngineBackend(), bindings(4)
    backend.prepare(floats(4), inputs, SessionOptions())
    (path,) = engines.glob("*.engine")
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(EngineFileError, match="has the wrong size"):
        backend.open(floats(4), inputs, outputs, SessionOptions())
    assert backend.prepare(floats(4), inputs, SessionOptions()) == "built"
    backend.open(floats(4), inputs, outputs, SessionOptions())


def test_a_node_that_tensorrt_lacks_is_named(engines: Path) -> None:
    graph = FLOATS.replace("STEPS", "4").replace("Tanh(product)", "Unheard(product)")
    with pytest.raises(BackendError, match=r"cannot read the graph of a stage: got .*Unheard"):
        EngineBackend().prepare(onnx.parser.parse_model(graph).SerializeToString(), bindings(4)[0], SessionOptions())


def test_a_graph_of_another_interface_is_refused(engines: Path) -> None:
    inputs, outputs = bindings(4)
    with pytest.raises(BackendError, match="the inputs of a stage file do not match the manifest"):
        EngineBackend().open(floats(4), inputs[:1], outputs, SessionOptions())


def test_versions_name_the_gpu(engines: Path) -> None:
    assert set(EngineBackend().versions()) == {"tensorrt", "cuda", "compute capability"}
