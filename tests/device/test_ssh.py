"""`edgefuse bench --device ssh://…` against a real server on loopback, and what goes wrong with it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from edgefuse.bundle.manifest import Machine
from edgefuse.device.device import device_of
from edgefuse.device.session import DeviceSession, _script
from edgefuse.device.tasks import Describe
from edgefuse.errors import DeviceError

Cli = Callable[..., Any]
Place = Any  # of conftest
DESCRIBE = Describe(backends=("onnx",), threads=1)


def describe(place: Place, **files: bytes) -> Machine:
    """Open a session and have the simplest task done."""
    with DeviceSession(device_of(place.uri), place.python) as session:
        return session.run(DESCRIBE, Machine, files)


@pytest.fixture
def on_path(place: Place, monkeypatch: pytest.MonkeyPatch) -> Place:
    """The device, reachable from within this process."""
    monkeypatch.setenv("PATH", place.variables["PATH"])
    return place


def start(place: Place, bundle: Path) -> subprocess.Popen[str]:
    """Start a benchmark that does not end by itself, and wait until the device is at it."""
    command: list[str | Path] = [sys.executable, "-m", "edgefuse", "bench", bundle, "--rounds", "100000000"]
    process = subprocess.Popen(
        [*command, "--device", place.uri, "--device-python", place.python],
        env=place.variables,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # A shell may have started all of this in the background, and then an interrupt would be ignored.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    place.wait(lambda: place.busy() or process.poll() is not None)
    assert process.poll() is None, process.communicate()
    return process


def test_bench_measures_on_the_device_and_leaves_nothing(cli: Cli, place: Place, tiny_bundle: Path) -> None:
    place.behave(before="echo 'Welcome to this device!'")
    bundle = tiny_bundle.rename(tiny_bundle.with_name('it\'s "tiny"'))
    options = ("--rounds", "12", "--json", "--device", place.uri, "--device-python", place.python)
    done = cli("bench", bundle, *options, "--against", bundle)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["inputs"] == "golden inputs (image + text + motion)"
    assert report["machine"]["threads"] == 1
    assert set(report["steady"]) == {"float", "small", 'it\'s "tiny"/float'}
    assert report["steady"]["small"]["runs"] == 10 * report["rounds"] >= 120
    assert report["baseline"].endswith("tiny\", rung 'float', backend onnx")
    assert report["cold"]["float"]["peak_rss_bytes"] > 10_000_000
    assert (place.left(), place.connections()) == ([], 1)


def test_bench_on_the_device_shows_a_table(cli: Cli, place: Place, tiny_bundle: Path) -> None:
    archive = shutil.make_archive(str(tiny_bundle), "zip", tiny_bundle)
    assert cli("bench", archive, "--device", place.uri).returncode == 2  # a deflated archive is no bundle, here already
    assert place.connections() == 0
    options = ("--rounds", "12", "--rung", "small", "--device-python", place.python)
    done = cli("bench", tiny_bundle, *options, "--device", place.uri)
    assert "single-stream, batch 1, 1 thread" in done.stdout, done.stderr
    assert "connect" in done.stderr


def test_a_torch_reference_stays_here(cli: Cli, place: Place, tiny_bundle: Path) -> None:
    done = cli("bench", tiny_bundle, "--against", "mine:build", "--device", place.uri)
    assert (done.returncode, place.connections()) == (2, 0)
    assert "a torch reference cannot run on a device: got --against mine:build with --device" in done.stderr


def test_the_device_says_what_it_is(on_path: Place, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import platform\nplatform.machine = lambda: 'riscv64'\n")
    on_path.behave(before=f"export PYTHONPATH={tmp_path}")
    assert describe(on_path).architecture == "riscv64"


def test_threads_fit_the_device(on_path: Place) -> None:
    with DeviceSession(device_of(on_path.uri), on_path.python) as session:
        for threads in (0, 100_000):
            with pytest.raises(
                DeviceError, match=f"on the device: the number of threads .*: got {threads}, expected 1"
            ):
                session.run(Describe(backends=("onnx",), threads=threads), Machine, {})
        assert session.run(DESCRIBE, Machine, {}).threads == 1, "an error does not end the session"


def refuse(place: Place, what: str) -> None:
    with pytest.raises(DeviceError, match=what) as caught:
        describe(place)
    assert caught.value.exit_code == 2
    assert "Fix: " in str(caught.value)
    place.wait(lambda: not place.left())  # who gave up waits two seconds for the device, which may be slow


def test_a_host_key_that_changed(on_path: Place) -> None:
    known = on_path.tools.parent / "known_hosts"
    known.write_text(known.read_text().split()[0] + " " + (on_path.tools.parent / "user.pub").read_text())
    refuse(on_path, "the host key of .* is not the one that is known")


def test_a_host_key_that_is_not_known(on_path: Place) -> None:
    (on_path.tools.parent / "known_hosts").unlink()
    refuse(on_path, "the host key of .* is not known")
    assert not (on_path.tools.parent / "known_hosts").exists()


def test_a_key_that_does_not_fit(on_path: Place) -> None:
    other = on_path.tools.parent / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", other], check=True)
    other.replace(on_path.tools.parent / "user")
    refuse(on_path, "127.0.0.1 did not let us in: got '.*Permission denied")


def test_nobody_listens(on_path: Place) -> None:
    on_path.server.kill()
    on_path.server.wait()
    refuse(on_path, "nobody listens at .*127.0.0.1: got .*Connection refused")


def test_no_such_host(on_path: Place) -> None:
    on_path.uri = "ssh://nobody.invalid"
    refuse(on_path, "there is no host nobody.invalid: got 'ssh: Could not resolve hostname")


def test_no_client(place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    refuse(place, "there is no program 'ssh'. Fix: install the OpenSSH client")


def test_no_python(on_path: Place) -> None:
    on_path.python = "/opt/it's not/python3"
    refuse(on_path, "the device has no such Python: got .*it's not/python3")


def test_a_python_that_lacks_modules(on_path: Place, tmp_path: Path) -> None:
    bare = tmp_path / "bare python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    bare.chmod(0o755)
    on_path.python = str(bare)
    refuse(on_path, "the device's Python lacks the module '(msgspec|numpy)'.* Fix: install there .*edgefuse.TARGET.")


def test_no_runtime(on_path: Place, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['onnxruntime'] = None\n")
    on_path.behave(before=f"export PYTHONPATH={tmp_path}")
    refuse(on_path, r"on the device: the backend 'onnx' needs the module 'onnxruntime', .* pip install")


@pytest.mark.parametrize("blocks", [1, 400])  # of 512 bytes: not even our package, or everything but the last file
def test_a_full_disk(on_path: Place, blocks: int) -> None:
    on_path.behave(before=f"ulimit -f {blocks}")
    with pytest.raises(DeviceError, match=r"there is no room on the device: got '.*'.* Fix: free some there"):
        describe(on_path, model=bytes(500_000))
    on_path.wait(lambda: not on_path.left())


def test_no_folder_for_temporary_files(on_path: Place) -> None:
    on_path.behave(before="export TMPDIR=/dev/null")
    refuse(on_path, "there is no room on the device: got .mktemp: ")


def test_a_damaged_report(on_path: Place) -> None:
    on_path.behave(after="| sed -u s/threads/threats/")
    refuse(on_path, "the answer of the device is damaged: got its hash is another")
    on_path.behave(after="| sed -u s/size/sighs/")
    refuse(on_path, "the answer of the device is damaged: got .*unknown field")


def test_a_device_that_vanishes(place: Place, tiny_bundle: Path) -> None:
    process = start(place, tiny_bundle)
    place.cut()
    _, said = process.communicate(timeout=600)
    assert process.returncode == 2
    assert "the connection to " in said.splitlines()[-1]
    assert " was lost: got " in said.splitlines()[-1]
    place.wait(lambda: not place.left())


def test_what_is_killed_over_there(place: Place, tiny_bundle: Path) -> None:
    process = start(place, tiny_bundle)
    (folder,) = place.left()
    for path in Path("/proc").glob("[0-9]*/cwd"):
        with contextlib.suppress(OSError):  # it has ended by now
            if path.readlink() == folder and b"python" in (path.parent / "comm").read_bytes():
                os.kill(int(path.parent.name), signal.SIGKILL)
    _, said = process.communicate(timeout=600)
    assert process.returncode == 2
    assert "the task was killed on the device: got exit code 137" in said.splitlines()[-1]
    place.wait(lambda: not place.left())


def test_what_the_agent_had_started_goes_with_it(tmp_path: Path) -> None:
    note, room = tmp_path / "note", tmp_path / "room"
    room.mkdir()
    agent = tmp_path / "agent.py"
    agent.write_text(
        "import os, pathlib, subprocess\n"
        "os.setsid()\n"
        f"pathlib.Path({str(note)!r}).write_text(str(subprocess.Popen(['sleep', '1000']).pid))\n"
        "os.kill(os.getpid(), 9)\n"
    )
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\nexec {sys.executable} {agent}\n")
    python.chmod(0o755)
    done = subprocess.run(
        ["sh", "-c", _script(str(room), str(python))], check=False, timeout=600, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 128 + signal.SIGKILL
    assert list(room.iterdir()) == []
    child = Path("/proc") / note.read_text() / "stat"
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for _ in range(6000):
            if child.read_text().rpartition(") ")[2][0] in "ZX":
                break
            time.sleep(0.01)
        else:
            raise AssertionError("it stays")


def test_what_is_written_while_the_agent_ends_goes_too(tmp_path: Path) -> None:
    room = tmp_path / "it's a room"
    room.mkdir()
    script = (
        "import os, subprocess, sys, threading, time\n"
        "os.setsid()\n"
        "writes = 'import itertools, os\\nfor i in itertools.count(): os.makedirs(f\"{i % 50}/a\", exist_ok=True)'\n"
        "subprocess.Popen([sys.executable, '-c', writes])\n"
        "time.sleep(0.5)\n"
        "from edgefuse.device import agent\n"
        "threading.Thread(target=agent._end).start()\n"
        "time.sleep(100)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", script], cwd=room, env=environment, check=False, timeout=600)
    assert done.returncode == -signal.SIGKILL
    for _ in range(6000):  # a busy disk takes seconds for as many folders
        if not room.exists():
            return
        time.sleep(0.01)
    raise AssertionError(f"it stays: {sorted(room.iterdir())[:3]}")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -15), (signal.SIGKILL, -9)])
def test_nothing_stays_when_this_side_is_stopped(place: Place, tiny_bundle: Path, number: int, code: int) -> None:
    process = start(place, tiny_bundle)
    process.send_signal(number)
    process.communicate(timeout=600)
    assert process.returncode == code
    if number == signal.SIGINT:
        assert place.left() == []
    place.wait(lambda: not place.left())


def test_the_agent_goes_when_it_hears_nothing(tmp_path: Path) -> None:
    program = "import sys, edgefuse.device.agent as a; a.SILENCE_SECONDS = 1; a.serve(sys.stdin.buffer)"
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as agent:
        assert agent.stdin is not None
        agent.stdin.write(b"\n")
        agent.stdin.flush()
        assert agent.wait(600) == -signal.SIGALRM


@pytest.mark.parametrize(
    "uri",
    [
        "ssh://-oProxyCommand=touch${IFS}owned",
        "ssh://-oProxyCommand=true@host",
        "ssh://user@-oProxyCommand=true",
        "ssh://user:secret@host",
        "ssh://host/folder",
        "ssh://host:99999",
        "ssh://ho st",
        "ssh://host;true",
        "ssh://",
        "adb://-s",
        "adb://a/b",
        "ftp://host",
        "host",
    ],
)
def test_what_is_no_device(uri: str) -> None:
    with pytest.raises(DeviceError, match="expected "):
        device_of(uri)


def test_where_options_end() -> None:
    command = device_of("ssh://me@[::1]:2222").command("true")
    assert command[-5:] == ["-p", "2222", "--", "me@::1", "true"]
    assert "StrictHostKeyChecking=yes" in command
