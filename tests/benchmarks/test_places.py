"""Paths are absolute from where they enter: workers and devices stand in other folders than whoever started them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pytest

from benchmarks.peers import __main__ as peers
from benchmarks.peers import environment
from benchmarks.peers.subject import Description, write
from benchmarks.portability import __main__ as portability

GIVEN = ["--bundle", "a.edgefuse", "--bundle", "b/c.edgefuse", "--out", "rows.json"]


@pytest.mark.parametrize(
    ("parser", "more"),
    [
        (peers.parser(), ["--recipe", "own/recipe.toml", "--work", "work", "--environments", "envs"]),
        (peers.parser(), []),
        (portability.parser(), ["--recipe", "../recipe.toml", "--docs", "page.md"]),
        (portability.parser(), []),
    ],
)
def test_every_path_of_a_command_line_is_absolute(
    parser: argparse.ArgumentParser, more: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGEFUSE_CACHE", "cache")
    given = vars(parser.parse_args([*GIVEN, *more])).values()
    found = [path for value in given for path in (value if isinstance(value, list) else [value])]
    paths = [path for path in found if isinstance(path, Path)]
    assert {tmp_path / "a.edgefuse", tmp_path / "b" / "c.edgefuse", tmp_path / "rows.json"} <= set(paths)
    assert [path for path in paths if not path.is_absolute()] == []


def test_a_worker_of_a_relative_subject_stands_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    about = Description("toy", "recipe.toml", (), ("logits",), (), (), "accuracy", 0.01, "0")
    subject = write(Path("work/subject"), about, {})
    assert subject.folder.is_absolute()
    monkeypatch.chdir("/")
    assert subject.about == about


def test_the_python_of_an_environment_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(environment, "REQUIREMENTS", tmp_path)
    monkeypatch.setattr(environment, "_install", lambda name, place: place.mkdir())
    (tmp_path / "own.txt").write_text("own==1\n")
    python = environment.interpreter("own", Path("envs"))
    assert python.is_absolute()
    assert python.parents[2] == tmp_path / "envs"
    assert environment.interpreter("project", Path("envs")) == Path(sys.executable)
