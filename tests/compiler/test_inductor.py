"""The folder of torch's compiler: one for each process, which goes with it, or with the next one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from edgefuse.compiler.evaluation.inductor import VARIABLE

PRINT = f"import os, edgefuse.compiler; print(os.environ[{VARIABLE!r}], flush=True)"


def environment(folder: Path, **variables: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != VARIABLE}
    return kept | {"TMPDIR": str(folder)} | variables


def test_it_goes_with_its_process_or_with_the_next_one(tmp_path: Path) -> None:
    stranger = tmp_path / "edgefuse-inductor-stranger"
    stranger.mkdir()
    command = [sys.executable, "-c", f"{PRINT}; input()"]
    start = {"env": environment(tmp_path), "stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **start) as killed, subprocess.Popen(command, **start) as living:  # type: ignore[call-overload]
        folders = [Path(process.stdout.readline().strip()) for process in (killed, living)]
        assert {*folders, stranger} == set(tmp_path.iterdir())
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        command = [sys.executable, "-c", PRINT]
        third = subprocess.run(command, env=environment(tmp_path), capture_output=True, text=True, check=True)
        assert Path(third.stdout.strip()) not in (*folders, stranger)
        assert set(tmp_path.iterdir()) == {folders[1], stranger}
        living.communicate("\n")
    assert list(tmp_path.iterdir()) == [stranger]


def test_a_folder_that_the_user_named_is_the_users(tmp_path: Path) -> None:
    named = tmp_path / "named"
    command = [sys.executable, "-c", PRINT]
    variables = environment(tmp_path, **{VARIABLE: str(named)})
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(named)
    assert set(tmp_path.iterdir()) <= {named}
