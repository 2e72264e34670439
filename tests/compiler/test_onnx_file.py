"""An ONNX file in place of a torch module: checked, compiled, quantized, bundled, and held to the file itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgefuse
from edgefuse.bundle.reader import open_bundle
from edgefuse.cli import main
from edgefuse.compiler import compile
from edgefuse.compiler.check.checking import check
from edgefuse.errors import ModelError, RecipeError
from edgefuse.runtime.backends.onnx.api import onnxruntime
from tests.stages.onnx import files

MODULE = """
from pathlib import Path

import numpy as np

from edgefuse.datasets import Sample, Splits

HELD = np.load(Path(__file__).with_name("data.npz"))


def splits():
    items = [
        Sample(
            {"image": image[None], "text": {"input_ids": ids[None], "attention_mask": mask[None]}}, int(target)
        )
        for image, ids, mask, target in zip(HELD["image"], HELD["ids"], HELD["mask"], HELD["target"], strict=True)
    ]
    return Splits(calibration=items[:16], validation=items[16:40], test=items[40:], digest="clip")
"""
RECIPE = """
[model]
onnx = "model.onnx"
name = "clip"
outputs = [{ type = "classes", name = "logits", labels = ["cat", "dog", "bird", "fish"] }]

[model.modalities.image]
tensors = ["pixel_values"]

[model.modalities.text]
tensors = [
    { name = "input_ids", shape = [1, { dim = "bounded", max = 12 }] },
    { name = "attention_mask", shape = [1, { dim = "bounded", max = 12 }] },
]

[data]
factory = "clip_data:splits"

[compile]
targets = ["onnx"]

[search]
max_drop = 0.5
objective = "size"
"""
PRUNED = """
[[prune.variants]]
stages = ["fusion"]
steps = [{ method = "structured", ratio = 0.5 }]
"""
STAGES = ("image_encoder", "text_encoder", "fusion")


def answers(path: Path, samples: list[dict[str, Any]]) -> list[Any]:
    session = onnxruntime.InferenceSession(path)
    return [session.run(None, sample)[0] for sample in samples]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file, its data and a recipe."""
    made = tmp_path_factory.mktemp("onnx")
    model = files.exported(made / "model.onnx", 17, by_trace=True)
    samples = [files.sample(seed) for seed in range(64)]
    np.savez(
        made / "data.npz",
        image=np.concatenate([one["pixel_values"] for one in samples]),
        ids=np.concatenate([one["input_ids"] for one in samples]),
        mask=np.concatenate([one["attention_mask"] for one in samples]),
        target=np.array([int(answer.argmax()) for answer in answers(model, samples)]),
    )
    (made / "clip_data.py").write_text(MODULE, encoding="utf-8")
    (made / "recipe.toml").write_text(RECIPE, encoding="utf-8")
    return made


def rewritten(folder: Path, name: str, *changes: tuple[str, str]) -> Path:
    text = RECIPE
    for before, after in changes:
        assert before in text
        text = text.replace(before, after)
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def test_it_compiles_with_int8_and_answers_like_the_file(folder: Path, tmp_path: Path) -> None:
    result = compile(folder / "recipe.toml", tmp_path / "out", cache=tmp_path / "cache")
    report = json.loads(result.report_json.read_text(encoding="utf-8"))
    assert report["reference"]["runtime"].startswith(f"onnxruntime {onnxruntime.__version__}, the float file, cpu")
    assert report["reference"]["accuracy"]["image+text"] == 1.0
    assert report["model"]["parameters"] == pytest.approx(sum(p.numel() for p in files.clip().parameters()), rel=0.02)
    (path,) = result.bundles
    assert main(["verify", str(path)]) == 0
    with open_bundle(path) as bundle:
        assert tuple(stage.name for stage in bundle.manifest.stages) == STAGES
        chosen = bundle.manifest.rungs[0].candidates
    assert "wi" in chosen["image_encoder"]
    assert "wi" in chosen["text_encoder"]
    pipeline = edgefuse.load(path)
    samples = [files.sample(seed, steps) for seed, steps in ((100, 12), (101, 5))]
    for sample, expected in zip(samples, answers(folder / "model.onnx", samples), strict=True):
        text = {name: sample[name].astype(np.int32) for name in ("input_ids", "attention_mask")}
        small = pipeline(image=sample["pixel_values"], text=text).outputs["logits"]
        assert 1e-4 < np.abs(small - expected).max() < 0.5 * np.abs(expected).max()


@pytest.mark.slow
@pytest.mark.parametrize("target", ["openvino", "tensorrt"])
def test_other_targets_that_read_onnx(folder: Path, tmp_path: Path, target: str) -> None:
    schemes = "[schemes]\n" + "".join(f'{stage} = ["float"]\n' for stage in STAGES)
    recipe = rewritten(folder, f"{target}.toml", ("[search]", f"{schemes}[search]"), ('"onnx"]', f'"{target}"]'))
    result = compile(recipe, tmp_path / "out", cache=tmp_path / "cache")
    assert [path.name for path in result.bundles] == [f"clip-{target}.edgefuse"]
    assert not result.failed


def test_check_shows_its_stages(folder: Path, tmp_path: Path) -> None:
    found = check(folder / "recipe.toml", cache=tmp_path)
    assert [stage.name for stage in found.stages] == list(STAGES)
    assert [finding.says for finding in found.findings if finding.stops] == []
    assert found.pruned == ()
    assert all(one.size_bytes for one in found.lowered)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            [('targets = ["onnx"]', 'targets = ["tflite"]')],
            r"names 'tflite', which is not made from an ONNX file: got model\.onnx, expected onnx or openvino or",
        ),
        (
            [("[search]", f"{PRUNED}[search]")],
            r"prunes an ONNX file, which cannot recover.* Fix: give the model by a factory, or leave \[prune\] out",
        ),
        ([('onnx = "model.onnx"', 'onnx = "model.onnx"\nfactory = "a:b"')], r"more than one: got factory and onnx"),
        ([('onnx = "model.onnx"\n', "")], r"\[model\] in .* names no model"),
        ([('onnx = "model.onnx"\n', 'onnx = "model.onnx"\nweights = "w.pt"\n')], r"for a model that has its own"),
        ([('tensors = ["pixel_values"]', 'tensor = ["pixel_values"]')], r"unknown field `tensor`"),
        ([('{ type = "classes", name = "logits", labels = ["cat", "dog", "bird", "fish"] }', "")], r"got no outputs"),
    ],
)  # fmt: skip
def test_recipes_that_are_refused(folder: Path, changes: list[tuple[str, str]], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        check(rewritten(folder, "wrong.toml", *changes), cache=folder / "cache")


def test_open_sizes_get_a_bound(folder: Path) -> None:
    change = ('{ name = "input_ids", shape = [1, { dim = "bounded", max = 12 }] }', '"input_ids"')
    with pytest.raises(ModelError, match=r"'input_ids' .* open sizes.*got \[batch,sequence\].*dim = 'bounded'"):
        check(rewritten(folder, "wrong.toml", change), cache=folder / "cache")
