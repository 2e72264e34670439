"""The Makefile: every target is run by `make test-all` or has a reason why not, and all it names exists."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from edgefuse.compiler.recipe import recipe
from tests.targets.__main__ import EXCLUDED, TARGETS

ROOT = Path(__file__).parents[1]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def targets() -> set[str]:
    """Return what can be asked for: every rule but those of files and of make itself."""
    return set(re.findall(r"^([a-z][a-z-]*):(?!=)", MAKEFILE, re.MULTILINE))


def test_every_target_is_run_or_has_a_reason_not_to_be() -> None:
    (phony,) = re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    assert set(phony.split()) == targets()
    run = [target.name for target in TARGETS]
    assert len(set(run)) == len(run)
    assert set(run) | set(EXCLUDED) == targets()
    assert not set(run) & set(EXCLUDED)
    assert all(len(reason.split()) > 3 for reason in EXCLUDED.values())


def test_every_target_is_described_at_the_top() -> None:
    assert set(re.findall(r"^# make ([a-z-]+) ", MAKEFILE, re.MULTILINE)) == targets()


def test_what_is_set_for_a_small_run_is_a_variable_of_the_makefile() -> None:
    known = set(re.findall(r"^([A-Z_0-9]+) \?=", MAKEFILE, re.MULTILINE))
    given = {setting.partition("=")[0] for target in TARGETS for setting in target.variables}
    assert given <= known


def test_ci_runs_all_targets() -> None:
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert "make test-all" in lines


@pytest.mark.parametrize(
    "path", [*sorted(ROOT.glob("examples/*/*.toml")), *sorted(ROOT.glob("tests/targets/*.toml"))], ids=str
)
def test_every_recipe_is_right_and_names_what_exists(path: Path) -> None:
    found = recipe.load(path)
    if path.name == "three.toml":  # its weights come from a seed
        assert found.model.weights is None
        return
    assert found.model.weights is not None
    assert (path.parent / found.model.weights).is_file()


def test_every_recipe_that_the_makefile_names_exists() -> None:
    named = re.findall(r"[\w/*]+\.toml", MAKEFILE)
    assert named
    assert [name for name in named if not list(ROOT.glob(name))] == []


def test_clean_leaves_what_is_tracked(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in (".venv/bin/python", "out/demo/report.json", "dist/a.whl", "edgefuse/cli.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    subprocess.run(["make", "clean"], cwd=tmp_path, check=True, capture_output=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["Makefile", "edgefuse"]
    assert (tmp_path / "edgefuse" / "cli.py").is_file()
