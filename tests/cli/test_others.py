"""demo and compile."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgefuse import cli as command_line
from edgefuse.commands import models

Cli = Callable[..., Any]
SCRIPT = Path(sys.executable).with_name("edgefuse")


def test_demo_runs_the_script_of_the_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "digits" / "demo.py"
    script.parent.mkdir()
    script.write_text("import sys\nsys.exit(len(sys.argv) + 4)\n")
    monkeypatch.setattr(models, "EXAMPLES", tmp_path)
    assert command_line.main(["demo", "digits", "-o", "here"]) == 7


def test_demo_needs_a_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(models, "EXAMPLES", tmp_path)
    assert command_line.main(["demo", "digits"]) == 2
    assert "Fix: clone the repository" in capsys.readouterr().err


def test_a_demo_that_is_not_there_is_told_with_those_that_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(["demo", "assistant"]) == 2
    assert "there is no such demo: got 'assistant', expected digits" in capsys.readouterr().err


def test_compile_says_in_one_sentence_what_is_wrong_with_a_recipe(cli: Cli, tmp_path: Path) -> None:
    done = cli("compile", "gone.toml", "-o", "out")
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("edgefuse: error: cannot read the recipe gone.toml: got No such file or directory.")
    assert not (tmp_path / "out").exists()


def test_the_module_and_the_script_are_the_same(cli: Cli) -> None:
    script = subprocess.run([SCRIPT, "--version"], capture_output=True, text=True, check=False)
    assert script.stdout == cli("--version").stdout
