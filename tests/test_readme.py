"""What the README shows must work as it stands."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from edgefuse.cli import VERBS

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def test_pages_name_bundles_as_a_compile_does() -> None:
    root = Path(__file__).parents[1]
    named = [
        (page.name, bundle)
        for page in [root / "README.md", *root.glob("docs/*.md"), *root.glob("examples/*/README.md")]
        for bundle in re.findall(r"edgefuse (?:run|bench|index|inspect|verify) (out/\S+)", page.read_text("utf-8"))
    ]
    assert named
    wrong = [(page, bundle) for page, bundle in named if not re.fullmatch(r"out/\w+(-\w+)+\.edgefuse", bundle)]
    assert not wrong


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a folder with the module and the recipe of "Your own model"."""
    (tmp_path / "my_module.py").write_text(blocks("python")[0], encoding="utf-8")
    (tmp_path / "recipe.toml").write_text(blocks("toml")[0], encoding="utf-8")
    return tmp_path


def test_the_example_is_short() -> None:
    assert len(blocks("python")[0].splitlines()) <= 40


def test_the_verbs_exist() -> None:
    named = set(re.findall(r"^ {4}edgefuse (\w+)", README, re.MULTILINE))
    assert named
    assert named <= set(VERBS)


@pytest.mark.slow
def test_the_own_model_compiles_and_exports_from_python(project: Path) -> None:
    hurry = "from tests.compiler.hurry import hurried\nwith hurried():\n"  # what it measures is not looked at
    code = hurry + textwrap.indent(blocks("python")[1], "    ")
    variables = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "EDGEFUSE_CACHE": str(project / "cache")}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=project, env=variables, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert (project / "out" / "machine-onnx.edgefuse").is_file()
    assert re.search(r"^machine.edgefuse: digest \w{64}$", result.stdout, re.MULTILINE)
    assert re.search(r"^  camera_encoder.static_wi8_ai8.u8: [\d.]+ dB", result.stdout, re.MULTILINE)


@pytest.mark.slow
def test_the_own_model_compiles_with_nothing_but_a_recipe(project: Path) -> None:
    hurry = (sys.executable, "-m", "tests.compiler.hurry")  # what it measures is not looked at
    command = [*hurry, "compile", "recipe.toml", "-o", "out", "--cache", "cache", "--json"]
    variables = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    result = subprocess.run(command, cwd=project, env=variables, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    names = {Path(path).name for path in json.loads(result.stdout)["bundles"]}
    assert names == {"machine-onnx.edgefuse", "machine-tflite.edgefuse"}
    report = json.loads((project / "out" / "report.json").read_text(encoding="utf-8"))
    assert set(report["reference"]["accuracy"]) == {"camera+vibration", "vibration"}
    assert "<h1>machine" in (project / "out" / "report.html").read_text(encoding="utf-8")


def test_the_pruning_that_is_shown_needs_nothing_but_training_samples(project: Path) -> None:
    with (project / "recipe.toml").open("a", encoding="utf-8") as file:
        file.write(blocks("toml")[1])
    command = [sys.executable, "-m", "edgefuse", "compile", "recipe.toml", "-o", "out", "--cache", "cache"]
    result = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "the recipe recipe.toml prunes, but 'my_module:data' gives no training samples" in result.stderr
    module = (project / "my_module.py").read_text(encoding="utf-8")
    (project / "my_module.py").write_text(
        module.replace("test=items[150:],", "test=items[150:], train=items[:50],"), encoding="utf-8"
    )
    code = (
        "from pathlib import Path\n"
        "from edgefuse.compiler.recipe import recipe\nfrom edgefuse.datasets.cache import Cache\n"
        "from edgefuse.compiler.model.opening import take_apart\n"
        "from edgefuse.compiler.model.preparation import prepare\nfrom edgefuse.progress import silent\n"
        "path = Path('recipe.toml')\nmodel = take_apart(path, recipe.load(path))\n"
        "print(sorted(prepare(model, Cache(Path('cache')), silent).splits))"
    )
    prepared = subprocess.run([sys.executable, "-c", code], cwd=project, capture_output=True, text=True, check=False)
    assert "'train'" in prepared.stdout, prepared.stderr
