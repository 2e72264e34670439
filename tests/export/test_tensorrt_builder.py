"""TensorRT's own builder is asked about every graph, in a process of its own, and only where it is installed."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace

import onnx
import onnx.parser
import onnx_ir as ir
import pytest

from edgefuse.bundle.manifest import Binding, BuildPlan, Profile
from edgefuse.errors import ExportError, QuantizeError
from edgefuse.export.target import Lowered
from edgefuse.export.tensorrt import builder
from edgefuse.export.tensorrt.bounds import name_single_bounds
from edgefuse.export.tensorrt.target import TensorrtTarget
from edgefuse.quantize.schemes import FP16
from edgefuse.quantize.tensorrt.quantizer import TensorrtQuantizer
from edgefuse.stages.stage import TorchStage
from tests.export.tensorrt_builder import needs_builder

WELL = "g (float[1,4] x) => (float[1,4] y) {y = Tanh(x)}"
OF_TWO_TYPES = """g (float[1,4] x) => (float[1,4] y) {
    half = Cast<to = 10>(x)
    y = Add(x, half)
}"""
HALF_CLIP = """g (float[1,4] x) => (float[1,4] y) <float16 low = {15360}> {
    half = Cast<to = 10>(x)
    bounded = Clip(half, low)
    y = Cast<to = 1>(bounded)
}"""


def graph(text: str, plan: BuildPlan | None = None) -> Lowered:
    data = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]>\n{text}').SerializeToString()
    steps = -1 if plan else 4
    x, y = (Binding(port=name, tensor=name, dtype="float32", shape=(1, steps)) for name in "xy")
    return Lowered(data, (x,), (y,), "ai.onnx 20", plan)


# --- with the builder ---


@needs_builder
def test_a_graph_is_built_for_every_architecture() -> None:
    plan = BuildPlan(profiles=(Profile(port="x", minimum=(1, 1), optimum=(1, 4), maximum=(1, 8)),))
    fixed, is_open = builder.build([graph(WELL), graph(WELL.replace("4", "n"), plan)])
    for built in (fixed, is_open):
        assert (built.refusal, built.warnings) == ("", ())
        assert set(built.engines_bytes) == {"SM86", "SM89", "SM120"}
        assert min(built.engines_bytes.values()) > 1000


@needs_builder
def test_a_type_error_is_refused_and_says_where() -> None:
    well, wrong, after = builder.build([graph(WELL), graph(OF_TWO_TYPES), graph(WELL)], ("SM86",))
    assert well.refusal == after.refusal == ""
    assert wrong.engines_bytes == {}
    assert wrong.refusal.startswith("TensorRT cannot read the graph of a stage: got ")
    assert "must have same input types" in wrong.refusal
    assert wrong.refusal.endswith("(for SM86)")


@needs_builder
def test_a_size_that_the_plan_lacks_is_refused() -> None:
    plan = BuildPlan(profiles=(Profile(port="other", minimum=(1, 1), optimum=(1, 4), maximum=(1, 8)),))
    (built,) = builder.build([graph(WELL.replace("4", "n"), plan)], ("SM86",))
    assert "the build plan does not say which shapes the input 'x' takes" in built.refusal


@needs_builder
def test_what_the_libraries_print_is_a_warning_and_belongs_to_its_graph(caplog: pytest.LogCaptureFixture) -> None:
    well, clipped = builder.build([graph(WELL), graph(HALF_CLIP)], ("SM86",))
    assert well.warnings == ()
    assert len(clipped.unexplained) == 1
    assert "precision-lose casting" in clipped.unexplained[0]
    assert builder.refusal(graph(HALF_CLIP)) == ""
    assert "TensorRT's builder says: WARNING: in op" in caplog.text


@needs_builder
def test_a_float_graph_that_the_builder_refuses_is_not_lowered(
    stage_by_name: dict[str, TorchStage], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgefuse.export.tensorrt.target.finished", lambda model, stage: graph(OF_TWO_TYPES))
    with pytest.raises(ExportError) as caught:
        TensorrtTarget().lower(stage_by_name["camera_encoder"])
    said = str(caught.value)
    assert said.startswith(
        "the stage 'camera_encoder' cannot be lowered for TensorRT: got TensorRT cannot read the graph"
    )
    assert said.endswith("Fix: replace what it names, or move it out of the model.")


@needs_builder
def test_a_quantized_graph_that_the_builder_refuses_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = graph(OF_TWO_TYPES).data
    monkeypatch.setattr("edgefuse.quantize.tensorrt.quantizer._checked", lambda model, scheme: wrong)
    with pytest.raises(QuantizeError, match=r"'fp16' made a graph that TensorRT does not take: got TensorRT cannot re"):
        TensorrtQuantizer().apply(graph(WELL), FP16, lambda: iter(()))


@needs_builder
def test_the_builder_has_a_say_in_cache_keys() -> None:
    assert TensorrtTarget().versions()["tensorrt-rtx"] == builder.installed()
    assert TensorrtQuantizer().versions()["tensorrt-rtx"] == builder.installed()


# --- a process that goes wrong, or has nothing to ask; a program of ours stands in for it ---


@pytest.fixture
def forgotten() -> Iterator[None]:
    builder.installed.cache_clear()
    yield
    builder.installed.cache_clear()


def instead(monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    said = """import os, signal, sys, time; sys.stdin.buffer.read(); print('{"version": "1.0"}', flush=True); """
    monkeypatch.setattr(builder, "_COMMAND", (said + program).replace("{", "{{").replace("}", "}}"))


def test_a_crash_is_a_refusal_and_the_other_graphs_are_built(monkeypatch: pytest.MonkeyPatch) -> None:
    program = (
        "print('edgefuse builds graph 0', file=sys.stderr); print('{\"engines_bytes\": [7]}', flush=True); "
        "print('edgefuse builds graph 1\\nabout to fall', file=sys.stderr, flush=True); "
        "os.kill(os.getpid(), signal.SIGSEGV)"
    )
    instead(monkeypatch, program)
    first, crashed, third = builder.build([graph(WELL)] * 3, ("SM86",))
    assert first.engines_bytes == third.engines_bytes == {"SM86": 7}
    assert crashed.refusal == "TensorRT's builder ended with signal SIGSEGV: about to fall"


def test_a_builder_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    instead(monkeypatch, "time.sleep(60)")
    (built,) = builder.build([graph(WELL)], limit_seconds=1)
    assert built.refusal == "TensorRT's builder did not end within 1 s"


@pytest.mark.usefixtures("forgotten")
def test_without_the_builder_nothing_is_refused(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    program = """print('{{"reason": "no libraries"}}')"""
    monkeypatch.setattr(builder, "_COMMAND", program)
    with caplog.at_level(logging.INFO):
        assert builder.refusal(graph(OF_TWO_TYPES)) == ""
    assert "TensorRT's builder is not asked: no libraries" in caplog.text
    assert builder.versions() == {}
    assert "tensorrt-rtx" not in TensorrtTarget().versions()


@pytest.mark.usefixtures("forgotten")
def test_a_builder_that_crashes_when_it_is_loaded_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builder, "_COMMAND", "import os; os.abort()")
    assert builder.installed() == ""


# --- one bound ---


def operators(text: str) -> Mapping[str, list[str]]:
    model: ir.Model = ir.from_proto(onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]>\n{text}'))
    name_single_bounds(model)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    return {node.op_type: [value.name or "" for value in node.inputs if value is not None] for node in model.graph}


@pytest.mark.parametrize(
    ("clip", "expected"),
    [
        ("Clip(x, low)", {"Max": ["x", "low"]}),
        ("Clip(x, , high)", {"Min": ["x", "high"]}),
        ("Clip(x)", {"Identity": ["x"]}),
        ("Clip(x, low, high)", {"Clip": ["x", "low", "high"]}),
    ],
)
def test_a_clip_with_one_bound_is_named_by_it(clip: str, expected: dict[str, list[str]]) -> None:
    text = f"g (float[4] x) => (float[4] y) <float low = {{1.0}}, float high = {{6.0}}> {{y = {clip}}}"
    assert operators(text) == expected


@needs_builder
def test_a_bound_in_float16_is_no_longer_warned_of() -> None:
    half = graph(HALF_CLIP)
    model: ir.Model = ir.from_proto(onnx.load_from_string(half.data))
    name_single_bounds(model)
    (built,) = builder.build([replace(half, data=ir.to_proto(model).SerializeToString())], ("SM86",))
    assert (built.refusal, built.warnings) == ("", ())
