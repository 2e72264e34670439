"""A device that hesitates, falls silent, floods or says nonsense: each wait ends, and ends in one sentence."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgefuse.bundle.manifest import Machine
from edgefuse.compiler.recipe.recipe import load
from edgefuse.compiler.timing import timer_of
from edgefuse.device import session as sessions
from edgefuse.device.device import device_of
from edgefuse.device.session import DeviceSession
from edgefuse.device.tasks import Describe
from edgefuse.errors import DeviceError

Place = Any  # of conftest
Unpacked = Callable[[str], Path]
DESCRIBE = Describe(backends=("onnx",), threads=1)
LONGER = r"Fix: check the device, or wait longer for it \(--device-timeout, \[device\] timeout_seconds\)\.$"


def describe(place: Place, timeout_seconds: float = 60.0) -> Machine:
    with DeviceSession(device_of(place.uri), place.python, timeout_seconds) as session:
        return session.run(DESCRIBE, Machine, {})


@pytest.fixture
def on_path(place: Place, monkeypatch: pytest.MonkeyPatch) -> Place:
    """The device, reachable from within this process; nothing may stay there."""
    monkeypatch.setenv("PATH", place.variables["PATH"])
    return place


def refuse(place: Place, what: str, timeout_seconds: float = 30.0) -> None:
    began = time.monotonic()
    with pytest.raises(DeviceError, match=what):
        describe(place, timeout_seconds)
    assert time.monotonic() - began < 300, "what it waits for takes 1000 s"
    place.wait(lambda: not place.left())


def run_out(place: Place, what: Callable[[float], str], timeout_seconds: float) -> None:
    """Refuse a device that hangs at some point; where it needs longer than usual to come there, try with longer limits.

    Args:
        place: the device.
        what: is said if it hangs there, by the time limit.
        timeout_seconds: in which it usually comes there.
    """
    for seconds in (timeout_seconds, 5 * timeout_seconds):
        with pytest.raises(DeviceError) as caught:
            describe(place, seconds)
        place.wait(lambda: not place.left())
        if re.search(what(seconds), str(caught.value)):
            return
    refuse(place, what(25 * timeout_seconds), 25 * timeout_seconds)


@pytest.mark.parametrize(
    "before",
    [
        "printf 'Welcome, and no newline'",
        "printf 'edgefuse-agent is what I say'",
        "yes 'A long message of the day' | head -c 3000000",
        "head -c 100000 /dev/zero",
    ],
)
def test_whatever_a_login_shell_prints_first(on_path: Place, before: str) -> None:
    on_path.behave(before=before)
    assert describe(on_path).threads == 1
    assert on_path.left() == []


def test_a_login_shell_that_does_not_come_to_an_end(on_path: Place) -> None:
    on_path.behave(before="exec yes 'press a key'")
    refuse(on_path, "the device's login shell prints without end: got .*press.* Fix: look at what it runs")


def test_a_login_shell_that_waits(on_path: Place) -> None:
    on_path.behave(before="printf 'press a key: '; sleep 1000")
    run_out(on_path, lambda s: f"the device did not greet within {s:g} s: got 'press a key:'. {LONGER}", 1.5)


def test_a_slow_device_is_waited_for_if_the_user_says_so(on_path: Place) -> None:
    on_path.behave(before="sleep 2.5")
    refuse(on_path, "did not greet within 1.5 s|does not answer", 1.5)
    assert describe(on_path, 120).threads == 1


def test_a_login_shell_that_reads_what_is_not_for_it(on_path: Place) -> None:
    on_path.behave(before="read line")
    refuse(on_path, "the program arrived damaged on the device")


def test_a_device_that_falls_silent(on_path: Place) -> None:
    on_path.behave(after="| { head -n 2; sleep 1000; }")
    run_out(on_path, lambda s: f"the device was silent for {s:g} s in the middle of it. {LONGER}", 3)


def test_a_device_that_lives_but_does_not_get_on(
    on_path: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text("import platform, time\nplatform.machine = lambda: time.sleep(1000)\n")
    on_path.behave(before=f"export PYTHONPATH={tmp_path}")
    monkeypatch.setattr(sessions, "WORK", 2)
    run_out(on_path, lambda s: f"the device made no progress for {2 * s:g} s. {LONGER}", 3)


def test_a_device_that_sends_without_end(on_path: Place) -> None:
    on_path.behave(after="| { head -n 2; yes '' ; }")
    refuse(on_path, "the device sends without end")


@pytest.mark.parametrize(
    ("before", "what"),
    [
        ("echo 'This account is currently not available.'; exit 1", "got exit code 1, 'This account is currently not"),
        ("echo 'syntax error' >&2; exit 2", "got exit code 2, 'syntax error'"),
        ("exec <&-", "got exit code "),
        ("exec >&-", "got exit code "),
    ],
)
def test_a_login_shell_that_does_not_start_anything(on_path: Place, before: str, what: str) -> None:
    on_path.behave(before=before)
    refuse(
        on_path,
        f"the device did not start the program that was sent: {what}.*, expected a login shell that can run",
    )


@pytest.mark.parametrize(
    ("package", "shell"),
    [
        ("tcsh", "bin/tcsh"),
        ("csh", "bin/bsd-csh"),
        ("fish", "usr/bin/fish"),
        ("zsh", "bin/zsh"),
        ("ksh93u+m", "bin/ksh93"),
    ],
)
def test_a_login_shell_of_another_kind(on_path: Place, unpacked: Unpacked, package: str, shell: str) -> None:
    root = unpacked(package)
    path = root / shell if (root / shell).exists() else root / "usr" / shell
    libraries = ":".join(sorted({str(found.parent) for found in root.rglob("*.so*")}))
    on_path.behave(before=f'LD_LIBRARY_PATH={libraries} exec {path} -c "$SSH_ORIGINAL_COMMAND"')
    assert describe(on_path).threads == 1
    assert on_path.left() == []


def test_a_login_shell_with_a_syntax_of_its_own(on_path: Place, unpacked: Unpacked) -> None:
    path = unpacked("rc") / "usr/bin/rc.byron"
    on_path.behave(before=f'exec {path} -c "$SSH_ORIGINAL_COMMAND"')
    refuse(on_path, "the device did not start the program that was sent: got .*syntax error")


@pytest.fixture
def mute() -> Iterator[int]:
    """The port of a server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        kept = []

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    kept.append(server.accept())

        thread = threading.Thread(target=accept)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
        for connection, _ in kept:
            connection.close()


def test_a_server_that_says_nothing(on_path: Place, mute: int) -> None:
    on_path.uri = f"ssh://me@127.0.0.1:{mute}"
    run_out(on_path, lambda _: "me@127.0.0.1 does not answer: got '.*timed out during banner exchange", 3)
    refuse(on_path, "did not greet within 0.3 s|does not answer", 0.3)


def test_nothing_more_goes_through_a_connection_that_was_given_up(on_path: Place) -> None:
    with DeviceSession(device_of(on_path.uri), on_path.python) as session:
        session._wire.end(15)
        for _ in range(2):
            with pytest.raises(DeviceError, match="the connection ended in the middle of a task"):
                session.run(DESCRIBE, Machine, {})


@pytest.mark.parametrize("timeout_seconds", [0, -1, float("nan"), float("inf"), 100_000])
def test_a_time_limit_is_a_number_of_seconds(timeout_seconds: float) -> None:
    with pytest.raises(
        DeviceError,
        match=r"the time limit of a device is out of range: got .* seconds, expected more than 0 and at most",
    ):
        DeviceSession(device_of("adb:"), timeout_seconds=timeout_seconds)


@pytest.mark.parametrize("python", ["", " ", "python3\nid", "python\x1b[31m"])
def test_a_python_is_a_name(python: str) -> None:
    with pytest.raises(
        DeviceError, match=r"the name of the device's Python is unusable: got .*, expected a name or an absolute path"
    ):
        DeviceSession(device_of("adb:"), python)


def test_a_recipe_says_how_long_to_wait(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    rest = '[model]\nfactory = "a:b"\n[data]\nfactory = "a:c"\n[device]\nuri = "ssh://me@board"\n'
    path.write_text(rest + "timeout_seconds = 90\n")
    assert timer_of(load(path)).timeout_seconds == 90.0  # type: ignore[attr-defined]
    path.write_text(rest + "timeout_seconds = 0\n")
    with pytest.raises(DeviceError, match=r"the time limit of a device is out of range: got 0 seconds"):
        load(path)


def test_the_client_gives_up_first() -> None:
    command = device_of("ssh://me@board").command("true", 60)
    assert {"ConnectTimeout=20", "ServerAliveInterval=5", "ServerAliveCountMax=3", "ControlMaster=no"} <= set(command)
    assert "ConnectTimeout=1" in device_of("ssh://me@board").command("true", 0.1)
    assert "ServerAliveInterval=50" in device_of("ssh://me@board").command("true", 600)
