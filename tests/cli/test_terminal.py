"""What hostile text does to a terminal: nothing. And what becomes of results that nobody takes."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx.parser
import pytest

import edgefuse.commands.models
from edgefuse import cli
from edgefuse.bundle.manifest import Binding, Manifest
from edgefuse.bundle.spec import ClassOutput
from edgefuse.bundle.writer import write_bundle
from edgefuse.commands import console, terminal
from edgefuse.errors import BackendError, EdgefuseError
from edgefuse.runtime.backends.backend import SessionOptions
from edgefuse.runtime.backends.onnx.backend import OnnxBackend

Cli = Callable[..., Any]
HOSTILE = "\x1b]0;owned\x07\x1b[31mred\x9b2J\rverify: ok\nedgefuse: all good\u202egpj.\u2066\u2028\x7f\udc80"
SHOWN = r"\x1b]0;owned\x07\x1b[31mred\x9b2J\rverify: ok\nedgefuse: all good\u202egpj.\u2066\u2028\x7f\udc80"
UNSAFE = terminal._UNSAFE_IN_JSON


def test_hostile_text_is_one_line_of_escapes() -> None:
    assert terminal.escaped(HOSTILE) == SHOWN
    assert terminal.escaped("Grüße, 日本語 ✓ 👩‍🚀 سلام\u200cها") == "Grüße, 日本語 ✓ 👩‍🚀 سلام\u200cها"


def test_every_way_to_the_terminal_is_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    with terminal.messages():
        console.write(HOSTILE)
        console.write(console.table((HOSTILE,), [(HOSTILE,)]))
        console.write(console.pairs([(HOSTILE, HOSTILE)]))
        logging.getLogger("foreign").warning("%s", HOSTILE)
        try:
            raise ValueError(HOSTILE)
        except ValueError:
            logging.getLogger("foreign").exception("failed")
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = terminal._show_warning
            warnings.warn(HOSTILE, stacklevel=1)
        with console.drawn_progress() as progress:
            progress(1, 2, HOSTILE)
        terminal.complain(HOSTILE)
    said = capsys.readouterr()
    assert said.out.splitlines() == [SHOWN, "  " + SHOWN, "  " + SHOWN, f"  {SHOWN}  {SHOWN}"]
    lines = said.err.splitlines()
    assert not UNSAFE.search(said.out + said.err)
    assert lines[0] == f"WARNING: {SHOWN}"
    assert lines[1:3] == ["ERROR: failed", "  Traceback (most recent call last):"]
    assert "  edgefuse: all good" in "\n".join(lines)
    assert not [line for line in lines if line.startswith("edgefuse:")]
    assert [line.partition(" (test_terminal")[0] for line in lines[-3:]] == [
        f"UserWarning: {SHOWN}",
        f"{SHOWN}: 1/2",
        SHOWN,
    ]


def test_columns_are_as_wide_as_what_is_shown() -> None:
    assert console.table(("a", "b"), [("\x1b", "x"), ("plain", "y")]) == ["  a      b", r"  \x1b   x", "  plain  y"]


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1", "cp1252"])
def test_json_says_the_same_and_does_nothing(encoding: str) -> None:
    document = msgspec.json.encode({"label": HOSTILE.replace("\udc80", "") + "é日👩"}).decode()
    safe = terminal.escaped_json(document, encoding)
    assert json.loads(safe) == json.loads(document)
    assert not UNSAFE.search(safe)
    safe.encode(encoding)
    assert ("日" in safe) == (encoding == "utf-8")


def test_a_name_that_is_not_utf8_is_json_as_well(capsys: pytest.CaptureFixture[str]) -> None:
    console.write_json({"path": "caf\udce9", "nothing": float("nan"), "some": (1, [2.5])})
    assert json.loads(capsys.readouterr().out) == {"path": "caf\udce9", "nothing": None, "some": [1, [2.5]]}


@pytest.fixture
def hostile_bundle(tmp_path: Path, tiny_manifest: Manifest, tiny_contents: Mapping[str, bytes]) -> Path:
    """The tiny bundle, whose labels are hostile."""
    labels = (HOSTILE.replace("\udc80", ""), "go", "wait\x1b[0m")
    model = msgspec.structs.replace(tiny_manifest.model, outputs=(ClassOutput(labels=labels),))
    path = tmp_path / "hostile\x1b[31m.edgefuse"
    write_bundle(path, msgspec.structs.replace(tiny_manifest, model=model), dict(tiny_contents))
    return path


@pytest.mark.parametrize("verb", ["inspect", "verify", "run"])
def test_what_a_bundle_says_does_not_reach_the_terminal(
    verb: str, hostile_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "motion.npy", np.ones((1, 4, 3), np.float32))
    inputs = ["--motion", str(tmp_path / "motion.npy")] if verb == "run" else []
    assert cli.main([verb, str(hostile_bundle), *inputs]) == 0
    said = capsys.readouterr()
    assert not UNSAFE.search(said.out + said.err)
    if verb != "verify":
        assert SHOWN.removesuffix(r"\udc80") in said.out
    assert cli.main([verb, str(hostile_bundle), *inputs, "--json"]) == 0
    said = capsys.readouterr()
    assert not UNSAFE.search(said.out + said.err)
    json.loads(said.out)


@pytest.mark.parametrize(
    "argv",
    [
        ["inspect", HOSTILE],
        ["models", f"--{HOSTILE}"],
        ["bench", "b", "--scenario", HOSTILE],
        ["bench", "b", "--rounds", HOSTILE],
        ["run", "BUNDLE", "--text", "go", "--rung", HOSTILE],
        ["run", "BUNDLE", f"--{HOSTILE}", "x"],
        ["run", "BUNDLE", "--motion", HOSTILE],
        ["compile", HOSTILE, "-o", "out"],
        [HOSTILE],
    ],
)
def test_what_the_command_line_says_does_not_reach_the_terminal(
    argv: list[str], tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([str(tiny_bundle) if word == "BUNDLE" else word for word in argv]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert not UNSAFE.search(said.err)
    assert not [line for line in said.err.splitlines() if line.startswith("edgefuse: all good")]


def test_what_a_runtime_says_of_a_file_does_not_reach_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    model = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["" : 20]>
        g (int32[1] i) => (float[1] y) { c = Constant<value = float[2] {1.0, 2.0}>()
        y = Gather(c, i) }""")
    model.graph.node[1].name = HOSTILE.replace("\udc80", "")
    inputs = (Binding(port="i", tensor="i", dtype="int32", shape=(1,)),)
    outputs = (Binding(port="y", tensor="y", dtype="float32", shape=(1,)),)
    session = OnnxBackend().open(model.SerializeToString(), inputs, outputs, SessionOptions())
    with pytest.raises(BackendError, match="ONNX Runtime cannot run a stage: got ") as caught:
        session.run({"i": np.array([7], np.int32)})
    assert str(caught.value).isprintable()
    assert capfd.readouterr().err == ""


def test_a_traceback_that_was_asked_for_is_escaped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> int:
        raise TypeError(HOSTILE)

    monkeypatch.setattr(edgefuse.commands.models, "run", fail)
    monkeypatch.setenv("EDGEFUSE_DEBUG", "1")
    assert cli.main(["models"]) == 70
    said = capsys.readouterr().err
    assert "Traceback (most recent call last)" in said
    assert not UNSAFE.search(said)


def test_messages_leave_logging_and_warnings_as_they_were() -> None:
    before = list(logging.getLogger().handlers), warnings.showwarning
    with terminal.messages():
        assert warnings.showwarning is terminal._show_warning
    assert (list(logging.getLogger().handlers), warnings.showwarning) == before


def test_a_message_that_cannot_be_formatted_is_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    record = logging.LogRecord("foreign", logging.WARNING, "file.py", 1, "%d", ("no number",), None)
    terminal._Handler().handle(record)
    assert capsys.readouterr().err == "WARNING: a message of 'foreign' cannot be shown\n"


def shell(script: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    command = ["sh", "-c", script.replace("edgefuse", f"{sys.executable} -m edgefuse")]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, check=False)


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", ["models", "models --json", "bench --help"])
def test_a_stdout_that_takes_nothing_is_one_sentence(words: str, unbuffered: str) -> None:
    for where, why in ((">/dev/full", "No space left on device"), (">&-", "it is closed")):
        done = shell(f"edgefuse {words} {where}", PYTHONUNBUFFERED=unbuffered)
        (line,) = done.stderr.decode().splitlines()
        assert (done.returncode, done.stdout) == (2, b"")
        assert line.startswith(f"edgefuse: error: the result cannot be written to stdout: got {why}. Fix: ")


def test_a_reader_that_went_away_is_141() -> None:
    filled = "(while echo; do :; done) 2>/dev/null"  # until it has gone
    done = shell(f"{{ {filled}; edgefuse models; echo $? >&2; }} | exec true")
    assert done.stderr == b"141\n"


@pytest.mark.parametrize("where", ["2>&-", "2>/dev/full", "<&- 2>&-"])
def test_what_nobody_hears_changes_nothing(where: str, tiny_bundle: Path) -> None:
    verified = shell(f"edgefuse verify {tiny_bundle} {where}")
    assert (verified.returncode, verified.stderr) == (0, b"")
    assert b"candidates are within their tolerance" in verified.stdout
    assert shell(f"edgefuse inspect nowhere {where}").returncode == 2
    assert shell(f"edgefuse fly {where}").returncode == 2


def test_a_file_does_not_take_the_place_of_a_closed_stream(tmp_path: Path) -> None:
    code = (
        "import sys; from edgefuse.commands import terminal; terminal.open_closed_streams()\n"
        f"file = open({str(tmp_path / 'file')!r}, 'w'); sys.exit(file.fileno() < 3)"
    )
    command = ["sh", "-c", f'{sys.executable} -c "$1" <&- >&- 2>&-', "sh", code]
    assert subprocess.run(command, check=False).returncode == 0


@pytest.mark.parametrize(
    "variables",
    [
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1"},
    ],
)
def test_a_locale_that_cannot_spell_it_is_no_error(
    variables: dict[str, str], tmp_path: Path, tiny_manifest: Manifest, tiny_contents: Mapping[str, bytes]
) -> None:
    model = msgspec.structs.replace(tiny_manifest.model, outputs=(ClassOutput(labels=("日本", "Grüße", "👩")),))
    path = tmp_path / "tiny"
    write_bundle(path, msgspec.structs.replace(tiny_manifest, model=model), dict(tiny_contents))
    for words in (f"inspect {path}", f"run {path} --text go", f"inspect {path}/日本", f"run {path} --text 日本"):
        done = shell(f"edgefuse {words}", **variables)
        assert done.returncode in (0, 2), done.stderr
        assert b"Traceback" not in done.stderr
    done = shell(f"edgefuse inspect {path} --json", **variables)
    labels = json.loads(done.stdout)["manifest"]["model"]["outputs"][0]["labels"]
    assert labels == ["日本", "Grüße", "👩"]


def test_a_stream_that_says_no_encoding_takes_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    console.write("日本")
    console.write_json(["日本"])
    assert stream.getvalue() == '日本\n[\n  "日本"\n]\n'


def test_an_error_of_stdout_is_one_of_the_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(EdgefuseError, match="it is closed"):
        console.write("x")
    terminal.flush()
    terminal.abandon()
