"""A compile of objects: the recipe is the same thing written down."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any, get_type_hints

import msgspec
import pytest
from torch import nn

import edgefuse
from edgefuse.bundle.reader import open_bundle
from edgefuse.compiler.cache import fingerprint
from edgefuse.compiler.recipe import recipe as recipes
from edgefuse.compiler.recipe.factory import call_factory
from edgefuse.compiler.recipe.keywords import SECTION_OF, TABLES, Keywords, call_of, recipe_of
from edgefuse.errors import DataError, EdgefuseError, ModelError, RecipeError

from .conftest import Compiled

CALL = call_of("compile")
ROOT = Path(__file__).parents[2]
WRITTEN = """
[model]
factory = "model"
assets = ["tokenizer.json"]

[data]
factory = "splits"

[compile]
targets = ["onnx", "tflite"]
device = "arm64"

[search]
max_drop = "2 %"
subsets = ["image"]

[quantize]
min_snr_db = [20.0, 30.0]

[[prune.variants]]
stages = ["fusion"]
steps = [{ method = "structured", ratio = 0.5 }]

[recover]
epochs = 3
threads = 2

[schemes]
fusion = ["float"]
"""
SAID = {
    "assets": ["tokenizer.json"],
    "targets": ["onnx", "tflite"],
    "device": "arm64",
    "max_drop": "2 %",
    "subsets": ("image",),
    "min_snr_db": (20.0, 30.0),
    "prune": {"variants": [{"stages": ["fusion"], "steps": [{"method": "structured", "ratio": 0.5}]}]},
    "recover": {"epochs": 3, "threads": 2},
    "schemes": {"fusion": ["float"]},
}


def test_a_call_says_what_a_file_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipes, "_check_threads", lambda *_: None)  # wherever this runs
    (tmp_path / "recipe.toml").write_text(WRITTEN, encoding="utf-8")
    assert recipe_of(CALL, SAID) == recipes.load(tmp_path / "recipe.toml")


def test_all_that_a_recipe_can_say_is_a_keyword() -> None:
    assert set(get_type_hints(Keywords)) == {*SECTION_OF, *TABLES}
    sections = get_type_hints(recipes.Recipe)
    flat = [key for name in set(SECTION_OF.values()) - {"model"} for key in sections[name].__struct_fields__]
    assert len(flat) == len(set(flat)), "two sections have one key: it cannot be a keyword by itself"
    assert set(sections) - TABLES - {"data"} == set(SECTION_OF.values())


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"max_dorp": 0.1}, "edgefuse.compile(…) has no keyword 'max_dorp'. Fix: did you mean 'max_drop'?"),
        ({"targets": ["moon"]}, "[compile] targets in edgefuse.compile(…) names an unknown target: got 'moon'"),
        ({"max_drop": -1}, "[search] max_drop in edgefuse.compile(…) is out of range: got -1"),
        ({"threads": "two"}, "edgefuse.compile(…) is wrong: got Expected `int`, got `str` - at `$.compile.threads`"),
        ({"recover": {"epoch": 1}}, "unknown key [recover] 'epoch'. Fix: did you mean 'epochs'?"),
        ({"schemes": 3}, "edgefuse.compile(…) is wrong: got Expected `object`, got `int` - at `$.schemes`"),
    ],
)
def test_a_wrong_keyword_is_one_sentence(keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        recipe_of(CALL, keywords)
    assert message in str(caught.value)


class Uncopied(nn.Module):
    def __deepcopy__(self, memo: object) -> Uncopied:
        raise RuntimeError("a lock is held")


def test_what_is_no_model_no_spec_or_no_data_is_one_sentence(own_recipe: Path, tmp_path: Path) -> None:
    model, splits = call_factory(own_recipe, "pair:build"), call_factory(own_recipe, "pair:data")
    wrong: list[tuple[type[EdgefuseError], Any, str]] = [
        (
            ModelError,
            (type(model), model.spec, splits),
            "the argument 'model' of edgefuse.compile(…) is of another type",
        ),
        (ModelError, (model, splits, model.spec), "the argument 'spec' of edgefuse.compile(…) is of another type"),
        (
            DataError,
            (model, model.spec, splits.test),
            "the argument 'splits' of edgefuse.compile(…) is of another type",
        ),
        (ModelError, (Uncopied(), model.spec, splits), "the model of edgefuse.compile(…) cannot be copied: got"),
    ]
    for kind, given, message in wrong:
        with pytest.raises(kind) as caught:
            edgefuse.compile(*given, out=tmp_path / "out")
        assert message in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_objects_compile_into_the_files_of_the_recipe(compiled: Compiled, tmp_path: Path) -> None:
    """What the recipe's compile has made is found under the same keys: no stage is made anew, none is evaluated."""
    model, splits = call_factory(compiled.recipe, "pair:build"), call_factory(compiled.recipe, "pair:data")
    model.train()
    cache = shutil.copytree(compiled.cache, tmp_path / "cache")
    before = _entries(cache)
    said = recipes.load(compiled.recipe).search
    keywords: Any = {name: getattr(said, name) for name in ("max_drop", "subsets", "max_fusion_passes")}
    made = edgefuse.compile(model, model.spec, splits, out=tmp_path / "out", cache=cache, targets=["onnx"], **keywords)
    assert not [name for name in _entries(cache) - before if not name.startswith("timings/")]  # of the recipe in whole
    with open_bundle(made.bundles[0]) as ours, open_bundle(compiled.result.bundles[0]) as theirs:
        files = [{c.id: c.sha256 for c in bundle.manifest.candidates} for bundle in (ours, theirs)]
    common = files[0].keys() & files[1].keys()
    assert common
    assert all(files[0][name] == files[1][name] for name in common)
    assert model.training
    assert not [name for part in model.modules() for name in vars(part) if "edgefuse" in name]


def _entries(cache: Path) -> set[str]:
    return {path.relative_to(cache).as_posix() for path in cache.glob("*/*") if path.is_dir()}


NOTEBOOK = """
    import sys
    import numpy as np, torch
    from torch import nn
    import edgefuse
    from edgefuse.bundle import spec
    from edgefuse.datasets import Sample, Splits
    from tests.compiler.hurry import hurried

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 2))
            self.scale = lambda x: x * 2

        def forward(self, vibration):
            return self.layers(self.scale(vibration))

    random = np.random.default_rng(0)
    items = [Sample({"vibration": random.standard_normal((1, 16), np.float32)}, i % 2) for i in range(60)]
    splits = Splits(items[:20], items[20:40], items[40:], digest="made-up")
    machine = spec.ModelSpec(
        name="machine",
        modalities=(spec.tensors("vibration", spec.TensorSpec(name="vibration", shape=(1, 16))),),
        outputs=(spec.ClassOutput(labels=("healthy", "worn")),),
    )
    with hurried():
        try:
            made = edgefuse.compile(
                Net(), machine, splits, out=sys.argv[1], cache=sys.argv[2], targets=["onnx"], max_drop=0.5, jobs=JOBS
            )
        except edgefuse.EngineError as error:
            sys.exit(str(error))
    print(*[path.name for path in made.bundles])
"""


def _in_a_session(folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Run code that has no file, as that of a notebook."""
    variables = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", textwrap.dedent(code), str(folder / "out"), str(folder / "cache")]
    return subprocess.run(command, env=variables, cwd=folder, capture_output=True, text=True, check=False)


def test_a_class_of_a_notebook_compiles(tmp_path: Path) -> None:
    made = _in_a_session(tmp_path, NOTEBOOK.replace("JOBS", "1"))
    assert made.stdout == "machine-onnx.edgefuse\n", made.stderr


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("scale", "message"),
    [
        ("lambda x: x * 2", "a job cannot be sent to a worker"),
        ("nn.Identity()", "a job cannot be made in a worker: got"),
    ],
)
def test_a_class_of_a_notebook_in_other_processes_is_one_sentence(scale: str, message: str, tmp_path: Path) -> None:
    done = _in_a_session(tmp_path, NOTEBOOK.replace("JOBS", "2").replace("lambda x: x * 2", scale))
    assert done.returncode == 1
    assert message in done.stderr.splitlines()[-1]
    assert "or compile with" in done.stderr.splitlines()[-1]


@pytest.mark.exhaustive
def test_a_script_that_compiles_when_it_is_imported_is_one_sentence(tmp_path: Path) -> None:
    code = textwrap.dedent(NOTEBOOK).replace("JOBS", "2").replace("lambda x: x * 2", "nn.Identity()")
    (tmp_path / "script.py").write_text(code, encoding="utf-8")
    variables = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "script.py", str(tmp_path / "out"), str(tmp_path / "cache")]
    done = subprocess.run(command, env=variables, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "came to the compile again" in done.stderr.splitlines()[-1]
    assert 'Fix: write `if __name__ == "__main__":` around it, or compile with one job' in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


CELL = """
def body(net, x):
    return x * net.factor + offset()

def offset():
    return OFFSET

class Net(nn.Module):
    factor = FACTOR

    def forward(self, x):
        return body(self, x)
"""
CELLS = f"""
    from torch import nn
    from edgefuse.compiler.cache.fingerprint import of_module

    for factor, offset in ("21", "31", "24", "21"):
        exec({CELL!r}.replace("FACTOR", factor).replace("OFFSET", offset), globals())
        print(of_module(Net()))
"""


def test_code_without_a_file_is_known_by_what_it_does(tmp_path: Path) -> None:
    """A cell that is changed and run again makes another model of the same name."""
    done = _in_a_session(tmp_path, CELLS)
    assert not done.returncode, done.stderr
    first, factor, offset, again = done.stdout.split()
    assert len({first, factor, offset}) == 3
    assert again == first


def test_the_recipe_of_a_call_is_part_of_the_bundle(compiled: Compiled) -> None:
    recipe = recipes.load(compiled.recipe)
    digest = fingerprint.of_bytes(msgspec.json.encode(recipe, order="sorted"))
    with open_bundle(compiled.result.bundles[0]) as bundle:
        assert bundle.manifest.provenance.recipe_sha256 == digest
