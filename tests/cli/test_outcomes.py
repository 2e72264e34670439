"""Every outcome of a command line: its exit code, and who hears what."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import edgefuse.commands.models
from edgefuse import __version__, cli
from edgefuse.errors import CheckError


def one_line(text: str) -> str:
    """Return the only line of a text."""
    (line,) = text.splitlines()
    return line


def test_the_version_is_told(cli: Callable[..., Any]) -> None:
    done = cli("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"edgefuse {__version__}\n", "")


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"\n    {verb} " in out for verb in cli.VERBS)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "the following arguments are required: VERB"),
        (["fly"], "invalid choice: 'fly'"),
        (["inspect"], "the following arguments are required: BUNDLE"),
        (["models", "--jsn"], "edgefuse: error: unknown arguments: --jsn."),
        (["models", "--js"], "edgefuse: error: unknown arguments: --js."),
        (["bench", "b", "--scenario", "server"], "invalid choice: 'server'"),
    ],
)
def test_wrong_usage_is_2_and_shows_the_usage(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(argv) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("usage: edgefuse")
    assert message in captured.err


def test_an_error_is_one_sentence_and_its_own_exit_code(cli: Callable[..., Any]) -> None:
    done = cli("inspect", "nowhere")
    assert (done.returncode, done.stdout) == (2, "")
    assert one_line(done.stderr).startswith("edgefuse: error: the bundle 'nowhere' cannot be read: got ")


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (CheckError("a check was not met", got=1), 1, "edgefuse: error: a check was not met: got 1."),
        (PermissionError(13, "Permission denied", "a/b"), 2, "error: the system refused at a/b: Permission denied."),
        (KeyboardInterrupt(), 130, "edgefuse: interrupted"),
        (TypeError("one\ntwo"), 70, "edgefuse: bug: TypeError: one (test_outcomes.py:"),
    ],
)
def test_every_exception_becomes_an_exit_code(
    error: BaseException, code: int, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> int:
        raise error

    monkeypatch.setattr(edgefuse.commands.models, "run", fail)
    assert cli.main(["models"]) == code
    assert message in one_line(capsys.readouterr().err)
    monkeypatch.setenv("EDGEFUSE_DEBUG", "1")
    assert cli.main(["models"]) == code
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_a_bug_says_how_to_report_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(edgefuse.commands.models, "run", lambda *_: int("gone"))
    assert cli.main(["models"]) == 70
    line = one_line(capsys.readouterr().err)
    assert "please report" in line
    assert "EDGEFUSE_DEBUG=1" in line


def test_a_reader_that_went_away_is_no_traceback(tiny_bundle: Path) -> None:
    command = [sys.executable, "-m", "edgefuse", "inspect", str(tiny_bundle)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait() == 141


def test_ctrl_c_is_130_and_leaves_nothing_behind(tiny_bundle: Path) -> None:
    command = [sys.executable, "-m", "edgefuse", "prepare", str(tiny_bundle), "--again"]
    # A job in the background of a shell ignores the signal, and what it starts inherits that.
    listening = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, text=True, preexec_fn=listening) as process:  # type: ignore[call-overload]
        assert process.stdout is not None
        assert process.stderr is not None
        process.stderr.readline()  # the work has begun
        os.kill(process.pid, signal.SIGINT)
        assert process.stderr.read().splitlines()[-1] == "edgefuse: interrupted"
        assert process.stdout.read() == ""
        assert process.wait() == 130
    assert [path.name for path in tiny_bundle.parent.iterdir()] == [tiny_bundle.name]
