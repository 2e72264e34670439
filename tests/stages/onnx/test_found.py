"""Stages of ONNX files: the same ones as of the torch module, and the same answers as of the file."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from edgefuse.bundle import spec
from edgefuse.bundle.spec import ModelSpec
from edgefuse.export.onnx.target import OnnxTarget
from edgefuse.graph import StageGraph
from edgefuse.runtime.backends.onnx.api import onnxruntime
from edgefuse.stages.found import Found
from edgefuse.stages.found import find as find_in_torch
from edgefuse.stages.onnx import OnnxModule, find
from edgefuse.stages.onnx.file import OPSET, converted, read, version_of
from edgefuse.stages.running import run_torch
from edgefuse.stages.stage import Array, parameters_of
from tests.stages.onnx import files


def stages_of(path: Path, described: ModelSpec = files.SPEC) -> Found:
    return find(read(path), described)


def answers(found: Found, values: dict[str, Array]) -> dict[str, Array]:
    """Run found stages one after the other, on values by key."""
    by_name = {stage.spec.name: stage for stage in found.stages}
    graph = StageGraph(tuple(stage.spec for stage in found.stages), ())
    results, _ = graph.run(graph.plan(()), lambda one, feeds: run_torch(by_name[one.name], feeds), values)
    return results


def in_files(sample: dict[str, Array]) -> dict[str, Array]:
    owners = {"pixel_values": "image", "input_ids": "text", "attention_mask": "text"}
    return {
        f"{owners[name]}.{name}": value.astype(np.int32) if value.dtype == np.int64 else value
        for name, value in sample.items()
    }


@pytest.fixture(scope="module", params=[(17, True), (20, False)], ids=["opset 17, traced", "opset 20"])
def clip(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    opset, by_trace = request.param
    return files.exported(tmp_path_factory.mktemp("clip") / "model.onnx", opset, by_trace=by_trace)


def test_an_exported_file_has_the_stages_of_its_module(clip: Path) -> None:
    assert any(one.suffix in (".bin", ".data") for one in clip.parent.iterdir())  # its weights lie beside it
    made, torchs = stages_of(clip), find_in_torch(files.clip(), files.SPEC)
    assert [stage.spec.name for stage in made.stages] == ["image_encoder", "text_encoder", "fusion"], made.notes
    assert [stage.spec.name for stage in torchs.stages] == [stage.spec.name for stage in made.stages]
    assert [one.shape for one in made.crossings] == [one.shape for one in torchs.crossings] == [(1, 64), (1, 64)]
    for mine, theirs in zip(made.work, torchs.work, strict=True):
        assert mine.macs == pytest.approx(theirs.macs, rel=0.02)
        assert mine.parameters == pytest.approx(theirs.parameters, rel=0.02)


def test_stages_answer_like_the_file(clip: Path) -> None:
    made, session = stages_of(clip), onnxruntime.InferenceSession(clip)
    for seed, steps in enumerate((files.STEPS, 7, 3)):
        sample = files.sample(seed, steps)
        (expected,) = session.run(None, sample)
        with torch.no_grad():
            torchs = files.clip()(*map(torch.from_numpy, sample.values())).numpy()
        found = answers(made, in_files(sample))["logits"]
        assert np.abs(found - expected).max() < 1e-5
        assert np.abs(found - torchs).max() < 1e-4


def test_ids_are_int32_in_stages_whatever_the_file_has(clip: Path) -> None:
    text = stages_of(clip).stages[1]
    assert {port.tensor.name: port.tensor.dtype for port in text.spec.inputs} == {
        "input_ids": "int32",
        "attention_mask": "int32",
    }
    assert isinstance(text.module, OnnxModule)
    assert text.module.rows_looked_up == (100,)  # generated ids are below


def test_a_stage_survives_copies_and_other_processes(clip: Path) -> None:
    stage = stages_of(clip).stages[0]
    given = torch.randn(3, 3, 16, 16)
    expected = stage.module(given)
    for module in (copy.deepcopy(stage.module), pickle.loads(pickle.dumps(stage.module))):
        assert torch.equal(module(given), expected)
    one = torch.cat([stage.module(given[place : place + 1]) for place in range(3)])
    assert torch.equal(one, expected)
    torchs = parameters_of(files.clip().patches) + parameters_of(files.clip().seen)
    assert parameters_of(stage.module) == pytest.approx(torchs, rel=0.01)  # equal ones are kept once


def test_a_file_by_hand_with_a_fixed_sample(tmp_path: Path) -> None:
    made = stages_of(files.by_hand(tmp_path / "m.onnx"), files.BY_HAND)
    assert [stage.spec.name for stage in made.stages] == ["sound_encoder", "motion_encoder", "fusion"], made.notes
    assert made.share is not None
    assert made.share > 0.95


def test_one_modality_is_one_stage(tmp_path: Path) -> None:
    both = spec.tensors("all", *(one.tensors[0] for one in files.BY_HAND.modalities[:1]))
    both = spec.tensors(
        "all", spec.TensorSpec(name="sound", shape=(1, 64)), spec.TensorSpec(name="motion", shape=(1, 32))
    )
    described = ModelSpec(name="one", modalities=(both,), outputs=files.BY_HAND.outputs, metric="mse")
    made = stages_of(files.by_hand(tmp_path / "m.onnx"), described)
    assert made.notes == ("one stage, because it has one modality",)
    assert [port.tensor.name for port in made.stages[0].spec.inputs] == ["all_sound", "all_motion"]


def test_what_branches_is_one_stage(tmp_path: Path) -> None:
    node, graph = onnx.helper.make_node, onnx.helper.make_graph
    then = graph([node("Add", ["a", "b"], ["x"])], "then", [], [files.value("x", [1, 16])])
    other = graph([node("Sub", ["a", "b"], ["y"])], "else", [], [files.value("y", [1, 16])])
    nodes = [
        node("ReduceSum", ["a"], ["total"], keepdims=0),
        node("Greater", ["total", "total"], ["more"]),
        node("If", ["more"], ["sum"], then_branch=then, else_branch=other),
        node("MatMul", ["sum", "head"], ["score"]),
    ]
    made = stages_of(files.by_hand(tmp_path / "m.onnx", nodes), files.BY_HAND)
    assert [stage.spec.name for stage in made.stages] == ["model"]
    assert made.notes == ("one stage, because it branches or loops in the file (If)",)


def test_what_an_optimizer_fused_is_lowered(tmp_path: Path) -> None:
    """ONNX Runtime's own operators, as `optimum-cli export onnx --optimize O2` leaves them: no shape follows them."""
    node, fused = onnx.helper.make_node, {"domain": "com.microsoft"}
    weights = {"scale": np.ones(16, np.float32), "bias": np.full(16, 0.5, np.float32)}
    nodes = [
        *(node("Constant", [], [name], value=onnx.numpy_helper.from_array(one)) for name, one in weights.items()),
        node("SkipLayerNormalization", ["a", "b", "scale"], ["normed", "", "", "sum"], **fused),
        node("Shape", ["sum"], ["sizes"]),
        node("Reshape", ["normed", "sizes"], ["same"]),
        node("BiasGelu", ["same", "bias"], ["wide"], **fused),
        node("Gemm", ["wide", "head"], ["score"]),
    ]
    path = files.by_hand(tmp_path / "m.onnx", nodes, extra=(onnx.helper.make_opsetid("com.microsoft", 1),))
    made = stages_of(path, files.BY_HAND)
    assert [stage.spec.name for stage in made.stages] == ["sound_encoder", "motion_encoder", "fusion"], made.notes
    lowered = OnnxTarget().lower(made.stages[-1])
    (score,) = onnx.load_model_from_string(lowered.data).graph.output
    assert [size.dim_value for size in score.type.tensor_type.shape.dim] == [1, 3]


@pytest.mark.parametrize("opset", [13, 15, 17, 20, 21])
def test_files_of_other_operator_sets_are_converted(tmp_path: Path, opset: int) -> None:
    path = files.by_hand(tmp_path / "m.onnx", opset=opset)
    assert version_of(converted(read(path))) == OPSET
    made = stages_of(path, files.BY_HAND)
    rng = np.random.default_rng(0)
    sound, motion = (rng.normal(size=(1, width)).astype(np.float32) for width in (64, 32))
    (expected,) = onnxruntime.InferenceSession(path).run(None, {"sound": sound, "motion": motion})
    found = answers(made, {"sound.values": sound, "motion.values": motion})["score"]
    assert np.abs(found - expected).max() < 1e-5
