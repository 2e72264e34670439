"""The backend for TensorRT without a GPU: what it chooses, and what ONNX Runtime is told."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edgefuse import registry
from edgefuse.bundle.manifest import Binding, BuildPlan, Manifest, Profile
from edgefuse.bundle.reader import open_bundle
from edgefuse.bundle.writer import write_bundle
from edgefuse.cli import main
from edgefuse.commands.prepare import build_engines
from edgefuse.errors import BackendError, MissingExtraError
from edgefuse.progress import silent
from edgefuse.runtime.backends.backend import SessionOptions
from edgefuse.runtime.backends.onnx.api import onnxruntime
from edgefuse.runtime.backends.tensorrt import providers as tensorrt_providers
from edgefuse.runtime.backends.tensorrt.backend import TensorrtBackend
from edgefuse.runtime.backends.tensorrt.providers import CPU, CUDA, TENSORRT, ProviderBackend, provider_options

X = (Binding(port="x", tensor="x", dtype="float32", shape=(1, -1)),)
Y = (Binding(port="y", tensor="y", dtype="float32", shape=(1, -1)),)
PLAN = BuildPlan(profiles=(Profile(port="x", minimum=(1, 1), optimum=(1, 4), maximum=(1, 8)),), sparse_weights=True)

MIXED = """
<ir_version: 10, opset_import: ["" : 20]>
mixed (float[1, n] x) => (float[1, n] y)
<float scale = {0.5}, int8 zero = {0}, float factor = {3.0}> {
    quantized = QuantizeLinear(x, scale, zero)
    grid = DequantizeLinear(quantized, scale, zero)
    half = Cast <to = 10> (grid)
    three = Cast <to = 10> (factor)
    product = Mul(half, three)
    y = Cast <to = 1> (product)
}
"""


@pytest.fixture(scope="module")
def mixed() -> bytes:
    """A graph whose precision is explicit: y = 3 * (x on a grid of 0.5), int8 and float16 inside."""
    import onnx

    data: bytes = onnx.parser.parse_model(MIXED).SerializeToString()
    return data


@pytest.fixture(autouse=True)
def forget_what_was_tried() -> None:
    tensorrt_providers._works.cache_clear()
    tensorrt_providers._warn_of_cpu.cache_clear()


def test_without_a_gpu_the_graph_is_checked_on_the_cpu(mixed: bytes, caplog: pytest.LogCaptureFixture) -> None:
    backend = registry.create("backends", "tensorrt")
    session = backend.open(mixed, X, Y, SessionOptions(plan=PLAN))
    result = session.run({"x": np.array([[0.6, -0.8, 100.0]], np.float32)})["y"]
    assert result.tolist() == [[1.5, -3.0, 190.5]]  # 100 is clipped to 127 steps of 0.5
    backend.open(mixed, X, Y, SessionOptions())
    assert caplog.text.count("run in ONNX Runtime on the CPU, for checking, not for speed") == 1
    assert backend.versions() == {
        "onnxruntime": onnxruntime.__version__,
        "provider": "CPUExecutionProvider (for checking the graph, not for speed)",
    }
    assert backend.prepare(mixed, X, SessionOptions()) == ""


def test_why_tensorrt_is_not_used_can_be_read(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        TensorrtBackend()
    assert "TensorRT is not used: " in caplog.text


def edition(folder: Path) -> tuple[str, str]:
    """Return the version that is found where only these packages of TensorRT are, and the complaint about none."""
    program = f"""if True:
        import sys
        class Only:
            def find_spec(name, path, target=None):
                if name.startswith("tensorrt") and not __import__("os").path.isdir({str(folder)!r} + "/" + name):
                    raise ModuleNotFoundError(f"No module named '{{name}}'")
        sys.meta_path.insert(0, Only)
        sys.path.insert(0, {str(folder)!r})
        from edgefuse.runtime.backends.tensorrt.edition import VERSION
        print(VERSION)
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    return done.stdout.strip(), (done.stderr.strip().splitlines() or [""])[-1]


def package(folder: Path, name: str, text: str) -> None:
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text(text)


def test_type_stubs_are_not_taken_for_tensorrt(tmp_path: Path) -> None:
    assert edition(tmp_path) == ("", "ImportError: No module named 'tensorrt'")
    (tmp_path / "tensorrt").mkdir()
    (tmp_path / "tensorrt" / "__init__.pyi").touch()
    assert edition(tmp_path) == ("", "ImportError: TensorRT's libraries are not installed")


def test_the_edition_for_rtx_is_used_where_the_full_one_is_not(tmp_path: Path) -> None:
    package(tmp_path, "tensorrt_rtx_bindings", "__version__ = '1.7'\nclass Builder: pass")
    assert edition(tmp_path) == ("1.7 for RTX", "")
    package(tmp_path, "tensorrt", "raise ImportError('libnvinfer.so.10: cannot open shared object file')")
    assert edition(tmp_path) == ("1.7 for RTX", "")
    package(tmp_path, "tensorrt_rtx", "__version__ = '1.8'\nclass Builder: pass")
    assert edition(tmp_path) == ("1.8 for RTX", "")
    (tmp_path / "tensorrt" / "__init__.py").write_text("__version__ = '10.3.0'\nclass Builder: pass")
    assert edition(tmp_path) == ("10.3.0", "")


def test_why_the_libraries_cannot_be_loaded_is_told(tmp_path: Path) -> None:
    package(tmp_path, "tensorrt", "raise OSError('libnvinfer.so.10: cannot open shared object file')")
    assert edition(tmp_path) == ("", "ImportError: libnvinfer.so.10: cannot open shared object file")


def test_without_any_runtime_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings", "onnxruntime"):
        monkeypatch.setitem(sys.modules, module, None)
    vendors = ("tensorrt.edition", "tensorrt.build", "tensorrt.api", "tensorrt.providers", "onnx.backend", "onnx.api")
    for module in vendors:
        monkeypatch.delitem(sys.modules, f"edgefuse.runtime.backends.{module}", raising=False)
    with pytest.raises(
        MissingExtraError, match=r"the backend 'tensorrt' needs .* Fix: pip install 'edgefuse\[tensorrt\]'"
    ):
        TensorrtBackend()


def test_providers_are_tried_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime lists providers whose libraries are missing, and leaves them out of a session without an error."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [TENSORRT, CUDA, CPU])
    tried: list[str] = []

    class Opened:
        def __init__(self, names: list[str]) -> None:
            self.get_providers = lambda: names

    def create(data: bytes, providers: list[str], options: object) -> Opened:
        tried.extend(providers)
        return Opened([CUDA, CPU] if CUDA in providers else [CPU])

    monkeypatch.setattr(tensorrt_providers, "create", create)
    assert ProviderBackend().provider == CUDA
    assert tried == [TENSORRT, CUDA]
    assert ProviderBackend().versions()["provider"] == CUDA


def test_the_probe_is_a_graph_that_runs() -> None:
    session = onnxruntime.InferenceSession(tensorrt_providers._PROBE, providers=[CPU])
    assert session.run(None, {"a": np.ones(1, np.float32)})[0].tolist() == [1.0]


def test_operators_that_fall_back_to_the_cpu_are_told(mixed: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """With a provider that every build of ONNX Runtime has, and that takes none of these operators."""
    if "AzureExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("this build has the CPU's provider only: what it says about a fallback is not checked")
    session = ProviderBackend("AzureExecutionProvider").open(mixed, X, Y, SessionOptions())
    assert session.run({"x": np.ones((1, 1), np.float32)})["y"].tolist() == [[3.0]]
    assert "a part of a stage runs on the CPU: the AzureExecutionProvider does not take its operators" in caplog.text


def test_a_damaged_graph_is_no_fallback(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(BackendError, match="ONNX Runtime cannot open a stage file"):
        ProviderBackend("AzureExecutionProvider").open(b"not a model", X, Y, SessionOptions())
    assert "CPU" not in caplog.text


def test_the_tensorrt_provider_is_told_the_plan_and_keeps_nothing() -> None:
    (name, options), fallback = provider_options(TENSORRT, X, PLAN)
    assert name == TENSORRT
    assert options["trt_engine_cache_enable"] == options["trt_timing_cache_enable"] == "0"
    assert options["trt_fp16_enable"] == options["trt_int8_enable"] == "0"  # which makes the engine strongly typed
    assert options["trt_sparsity_enable"] == "1"
    shapes = [options[f"trt_profile_{which}_shapes"] for which in ("min", "opt", "max")]
    assert shapes == ["x:1x1", "x:1x4", "x:1x8"]
    assert fallback == (CUDA, {"use_tf32": "0"})


def test_fixed_shapes_need_no_profile() -> None:
    fixed = (Binding(port="x", tensor="x", dtype="float32", shape=(1, 4)),)
    (_, options), _ = provider_options(TENSORRT, fixed, BuildPlan())
    assert not [name for name in options if "profile" in name]
    assert options["trt_sparsity_enable"] == "0"
    assert provider_options(CUDA, fixed, BuildPlan()) == [(CUDA, {"use_tf32": "0"})]


@pytest.fixture
def tensorrt_bundle(tmp_path: Path, tiny_manifest: Manifest, tiny_contents: Mapping[str, bytes]) -> Path:
    """The tiny bundle as one for TensorRT; its one open input has a profile."""
    profile = Profile(port="values", minimum=(1, 1, 3), optimum=(1, 5, 3), maximum=(1, 5, 3))
    candidates = tuple(
        msgspec.structs.replace(
            c, backend="tensorrt", plan=BuildPlan(profiles=(profile,) if c.stage == "motion_encoder" else ())
        )
        for c in tiny_manifest.candidates
    )
    path = tmp_path / "tiny-tensorrt"
    write_bundle(path, msgspec.structs.replace(tiny_manifest, candidates=candidates), tiny_contents)
    return path


class Building:
    """A backend that builds what it has not seen."""

    suffix = ".onnx"
    build_seconds = 1.0

    def __init__(self) -> None:
        self.seen: list[tuple[bytes, BuildPlan | None]] = []

    def prepare(self, data: bytes, inputs: tuple[Binding, ...], options: SessionOptions) -> str:
        known = (data, options.plan) in self.seen
        self.seen.append((data, options.plan))
        return "known" if known else "built"


def test_prepare_builds_every_candidate_by_its_plan(tensorrt_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = Building()
    monkeypatch.setattr(registry, "create", lambda kind, name: backend)
    said: list[str] = []
    with open_bundle(tensorrt_bundle) as bundle:
        count = len(bundle.manifest.candidates)
        assert build_engines(bundle, None, lambda done, total, what: said.append(f"{done}/{total} {what}")) == {
            "built": count,
            "known": 0,
        }
        assert build_engines(bundle, None, silent) == {"built": 0, "known": count}
        assert [plan for _, plan in backend.seen[:count]] == [c.plan for c in bundle.manifest.candidates]
    assert said[0] == f"0/{count} prepare fusion.float"
    assert said[-1] == f"{count}/{count} prepare engines"


@pytest.mark.parametrize("name", ["onnx", "null"])
def test_other_backends_build_nothing(tiny_bundle: Path, name: str) -> None:
    with open_bundle(tiny_bundle) as bundle:
        assert build_engines(bundle, name, silent) == {}


def test_prepare_and_verify_work_without_a_gpu_and_say_on_what(
    tensorrt_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["prepare", str(tensorrt_bundle), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["measured_now"], report["engines"]) == (True, {})
    runtimes = report["figures"]["float"]["machine"]["runtimes"]
    assert runtimes["provider"] == "CPUExecutionProvider (for checking the graph, not for speed)"
    assert main(["verify", str(tensorrt_bundle)]) == 0
