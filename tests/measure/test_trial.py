"""Stage files are opened in a process of their own first: what kills or blocks it is one sentence about one file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from edgefuse.bundle.reader import open_bundle
from edgefuse.cli import main
from edgefuse.errors import BackendError
from edgefuse.measure import trial
from edgefuse.runtime.backends.backend import SessionOptions

FILES = [
    *("stages/fusion.float.onnx", "stages/image_encoder.dynamic_wi8_af32.onnx", "stages/image_encoder.float.onnx"),
    *("stages/image_frontend.float.onnx", "stages/motion_encoder.float.onnx", "stages/text_encoder.float.onnx"),
]


def hostile(monkeypatch: pytest.MonkeyPatch, does: str, at: int = 2) -> None:
    """Let the process that opens files do something when it comes to a file, as native code would."""
    code = f"""
import edgefuse.measure.trial as trial, os, signal, sys, time
found, check = [], trial.check_candidate
def checked(bundle, candidate, *rest):
    found.append(candidate.file)
    if len(found) == {at}:
        {does}
    return check(bundle, candidate, *rest)
trial.check_candidate = checked
trial.main(sys.argv[3], int(sys.argv[4]))
"""
    monkeypatch.setattr(trial, "_CHILD", trial._FROM_HERE + code)


def check(path: Path, **options: Any) -> list[tuple[int, int]]:
    seen: list[tuple[int, int]] = []
    with open_bundle(path) as bundle:
        trial.check(bundle, SessionOptions(), progress=lambda done, total, _: seen.append((done, total)), **options)
    return seen


def test_every_file_is_tried(tiny_bundle: Path) -> None:
    assert check(tiny_bundle) == [(index, len(FILES)) for index in range(len(FILES) + 1)]


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT", "SIGFPE"])
def test_a_crash_is_one_sentence(name: str, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hostile(monkeypatch, f"os.kill(os.getpid(), signal.{name})")
    with pytest.raises(BackendError) as caught:
        check(tiny_bundle)
    assert str(caught.value) == (
        f"the stage file '{FILES[1]}' crashes the backend 'onnx': got signal {name}. "
        "Fix: do not use this bundle here; get it from its author again."
    )


def test_native_code_that_ends_the_process_is_one_sentence(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hostile(monkeypatch, "os._exit(3)", at=1)
    with pytest.raises(BackendError, match=rf"'{FILES[0]}' crashes the backend 'onnx': got exit status 3\."):
        check(tiny_bundle)


def test_a_hang_is_one_sentence_and_leaves_no_process(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def remembered(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        started.append(popen(*arguments, **options))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", remembered)
    monkeypatch.setattr(trial, "_DYING_SECONDS", 0.1)
    hostile(monkeypatch, "time.sleep(1000)")
    seconds, begun = 2, ""
    while FILES[1] not in begun:  # on a busy machine it takes longer until the process comes to that file
        seconds *= 2
        assert seconds < 1000
        try:
            check(tiny_bundle, seconds=seconds)
        except BackendError as error:
            begun = str(error)
    assert begun == (
        f"the stage file '{FILES[1]}' keeps the backend 'onnx' busy: got no answer within {seconds} s in a process of "
        "its own. Fix: do not use this bundle here; get it from its author again."
    )
    assert [process.returncode for process in started] == [-signal.SIGKILL] * len(started)


def test_what_python_says_is_for_the_check_in_this_process(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hostile(monkeypatch, "raise RuntimeError('no crash')")
    check(tiny_bundle)


@pytest.mark.parametrize(
    ("begins", "ending"),
    [
        ("os._exit(3)", "exit status 3"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "signal SIGSEGV"),
        ("raise MemoryError", "exit status 1"),
    ],
)
def test_a_process_that_tries_nothing_is_told(
    begins: str, ending: str, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(trial, "_CHILD", f"import os, signal\n{begins}")
    assert check(tiny_bundle) == []
    assert f"untried: the one that tries them ended by {ending}" in caplog.text


def test_what_libraries_print_is_not_taken_for_ours(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hostile(
        monkeypatch, "sys.stdout.write('end\\nno newline'); sys.stdout.flush(); os.kill(os.getpid(), signal.SIGSEGV)"
    )
    with pytest.raises(BackendError, match=rf"'{FILES[1]}' crashes the backend 'onnx': got signal SIGSEGV"):
        check(tiny_bundle)


def test_where_no_process_can_be_started_that_is_said(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "executable", os.devnull)
    check(tiny_bundle)
    assert "stage files are opened in this process, untried: no other can be started here" in caplog.text


def test_the_process_imports_nothing_from_where_it_stands(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trap = tmp_path / "here"
    trap.mkdir()
    for name in ("json", "edgefuse", "numpy"):
        (trap / f"{name}.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')\n")
    monkeypatch.chdir(trap)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    check(tiny_bundle)
    assert not (tmp_path / "sprung").exists()


def test_verify_names_the_file_and_ends_with_2(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hostile(monkeypatch, "os.kill(os.getpid(), signal.SIGSEGV)", at=5)
    assert main(["verify", str(tiny_bundle)]) == 2
    written = capsys.readouterr()
    assert written.out == ""
    assert f"edgefuse: error: the stage file '{FILES[4]}' crashes the backend 'onnx'" in written.err


def test_no_thread_stays(tiny_bundle: Path) -> None:
    check(tiny_bundle)
    deadline = time.monotonic() + 60
    while any(thread.name.endswith("(read)") for thread in threading.enumerate()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not [thread for thread in threading.enumerate() if thread.name.endswith("(read)")]
