"""Values that are none: of every option and argument of every verb, and of the options that a bundle brings."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

from edgefuse import cli
from edgefuse.commands.arguments import Parser, seconds, share, whole

BLANK = ("", " ", "\t", "\n", "\u3000")


def arguments_with_values(verb: str) -> list[argparse.Action]:
    """What a verb takes values for, as its own parser says."""
    (verbs,) = [a for a in cli._parser([verb])._actions if isinstance(a, argparse._SubParsersAction)]
    return [action for action in verbs.choices[verb]._actions if action.nargs != 0]


def command(verb: str, blank: argparse.Action, value: str) -> list[str]:
    """A command line that gives a value to one argument, and something to those that must be there."""
    words = [verb]
    for action in arguments_with_values(verb):
        given = value if action.dest == blank.dest else "digits" if verb == "demo" else "x"
        if action.option_strings and (action.required or action.dest == blank.dest):
            words += [action.option_strings[-1], given]
        elif not action.option_strings:
            words.append(given)
    return words


@pytest.mark.parametrize("verb", cli.VERBS)
def test_no_value_is_empty_or_blank(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    for action in arguments_with_values(verb):
        for value in BLANK:
            assert cli.main(command(verb, action, value)) == 2
            said = capsys.readouterr()
            name = "/".join(action.option_strings) or action.metavar
            assert said.out == ""
            assert said.err.splitlines()[-1] == (
                f"edgefuse {verb}: error: argument {name}: the value is empty: got {value!r}"
            )


@pytest.mark.parametrize("verb", cli.VERBS)
def test_nothing_is_refused_that_was_not_given(verb: str) -> None:
    words = [verb]
    for action in arguments_with_values(verb):
        if action.required:
            words += [*action.option_strings[-1:], "digits" if verb == "demo" else "x"]
    found = cli._parser([verb]).parse_args(words)
    assert all(
        getattr(found, action.dest) == action.default for action in arguments_with_values(verb) if not action.required
    )


def test_what_takes_values_was_found() -> None:
    found = {action.dest for verb in cli.VERBS for action in arguments_with_values(verb)}
    assert {"bundle", "device", "device_python", "out", "rung", "digest", "threads", "against", "cache"} <= found


@pytest.mark.parametrize("word", ["--digest=--", "--rung=--", "--device=--", "--text=--"])
def test_what_ends_options_is_no_value(word: str, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    verb = "inspect" if "digest" in word else "bench"
    assert cli.main([verb, str(tiny_bundle), word]) == 2
    assert f"argument {word.partition('=')[0]}: the value is empty: got '--'" in capsys.readouterr().err


@pytest.mark.parametrize("word", ["--text=", "--text= ", "--image=", "--motion=\t"])
def test_no_input_is_empty_or_blank(word: str, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("run", "bench"):
        assert cli.main([verb, str(tiny_bundle), word]) == 2
        assert f"argument {word.partition('=')[0]}: the value is empty: got " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("value", "message"),
    [("a\0b", "the value holds a null character"), ("\ud800", "the value is not text")],
)
def test_what_no_system_takes_is_refused(value: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect", value]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rounds", "0"], "'0' is not a whole number from 1 to 1000000000"),
        (["--rounds", "1e3"], "'1e3' is not a whole number"),
        (["--rounds", "9" * 5000], "9...' is not a whole number"),
        (["--seed", "-1"], "'-1' is not a whole number from 0 to 4294967295"),
        (["--min-placement", "nan"], "'nan' is not a share from 0 to 1"),
        (["--threads", "many"], "argument --threads: invalid int value: 'many'"),
    ],
)
def test_numbers_are_in_their_range(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "bundle", *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("threads", ["0", "-1", "5000", "100000", str(10**30)])
@pytest.mark.parametrize("verb", ["run", "verify", "prepare", "bench"])
def test_threads_fit_the_machine(
    verb: str, threads: str, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inputs = ["--text", "go"] if verb == "run" else []
    assert cli.main([verb, str(tiny_bundle), "--threads", threads, *inputs]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert f"the number of threads does not fit this machine: got {threads}, expected 1" in said.err


def test_types_convert() -> None:
    assert (whole(1, 3)("2"), share("0.5"), seconds("1e2")) == (2, 0.5, 100.0)
    for text in ("0", "-1", "inf", "nan", "soon"):
        with pytest.raises(argparse.ArgumentTypeError, match="is not a number of seconds above 0"):
            seconds(text)


def test_flags_take_no_value() -> None:
    parser = Parser()
    parser.add_argument("--json", action="store_true")
    given: Any = parser.parse_args(["--json"])
    assert given.json


def test_code_that_ends_the_process_is_not_a_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "ends_at_once.py").write_text("import sys\nsys.exit(0)\n")
    (tmp_path / "recipe.toml").write_text(
        '[model]\nfactory = "ends_at_once:build"\n[data]\nfactory = "ends_at_once:data"\n'
    )
    monkeypatch.chdir(tmp_path)
    assert cli.main(["compile", "recipe.toml", "-o", "out"]) == 2
    assert "has ended it with sys.exit(0)." in capsys.readouterr().err
