"""The local control command: what it does, who may use it, and what it survives."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import edgefuse
from benchmarks.swaps import counted
from edgefuse import cli
from edgefuse.bundle.manifest import Manifest
from edgefuse.bundle.writer import write_bundle
from edgefuse.errors import BundleError, InputError
from edgefuse.runtime import control
from edgefuse.runtime.live import Live
from tests.runtime.second import WRONG, second
from tests.runtime.test_forks import in_child
from tests.runtime.test_live import digest_of


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder with a short path: that of a socket has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="e-") as folder:
        yield Path(folder)


@pytest.fixture
def live(place: Path, tiny_manifest: Manifest, tiny_contents: dict[str, bytes]) -> Iterator[Live]:
    """A process that answers with the tiny bundle and listens at `socket`."""
    write_bundle(place / "first.edgefuse", tiny_manifest, tiny_contents)
    with edgefuse.Live(place / "first.edgefuse") as live:
        live.listen(place / "socket")
        told(place, b"null\n")  # from here on it listens
        yield live


def told(place: Path, message: bytes, *, ends: bool = False) -> dict[str, Any]:
    """Send bytes, and return the answer."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(place / "socket"))
        with suppress(BrokenPipeError):  # it may have given up waiting by now: its answer is there all the same
            connection.sendall(message)
        if ends:
            connection.shutdown(socket.SHUT_WR)
        with connection.makefile("rb") as answer:
            found: dict[str, Any] = json.loads(answer.readline())
    return found


def test_the_command_swaps_and_says_so(live: Live, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = second(place / "second.edgefuse")
    assert cli.main(["swap", str(place / "socket"), str(other), "--digest", digest_of(other)]) == 0
    assert capsys.readouterr().out == f"ok: {other} runs, digest {digest_of(other)}\n"
    assert (live.path, live.digest) == (other, digest_of(other))
    assert live.pipeline(text="go").label


def test_the_command_resolves_paths_where_it_stands(
    live: Live, place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    second(place / "second.edgefuse")
    monkeypatch.chdir(place)
    assert cli.main(["swap", "socket", "second.edgefuse"]) == 0
    assert live.path == place / "second.edgefuse"


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_refused_is_said_and_the_old_one_stays(
    kind: str, live: Live, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = live.pipeline
    make, _ = WRONG[kind]
    path = make(place / "wrong.edgefuse")
    assert cli.main(["swap", str(place / "socket"), str(path)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines()[-1].startswith(f"edgefuse: error: the bundle '{path}' ")
    assert live.pipeline is before


def test_a_wrong_digest_is_refused(live: Live, place: Path) -> None:
    other = second(place / "second.edgefuse")
    with pytest.raises(BundleError, match=r"its digest is not the pinned one: got \w{64}, expected 00"):
        control.ask(place / "socket", str(other), "0" * 64)
    assert live.path == place / "first.edgefuse"


def test_without_a_bundle_the_same_one_is_opened_again(live: Live, place: Path) -> None:
    before = live.pipeline
    assert told(place, b"{}\n")["ok"]
    assert live.pipeline is not before


HOSTILE = (
    b"\n",
    b"null\n",
    b"[]\n",
    b'{"bundle": 5}\n',
    b'{"bundle": "/a", "run": "rm"}\n',
    b'{"bundle": "relative.edgefuse"}\n',
    b'{"bundle": "/a\\u0000b"}\n',
    b'{"bundle": "/\\ud800"}\n',
    b'{"bundle": "/dev/zero"}\n',
    b'{"bundle": "/dev/stdin"}\n',
    b'{"bundle": "/", "digest": "\\n\\u001b[31m"}\n',
    b'{"bundle": "/%s"}\n' % (b"a" * 5000),
    b'{"bundle": null}\n{"bundle": "/a"}\n',
    b"[" * 10_000 + b"\n",
    b"\xff\xfe\x00\n",
    b"a" * control.MAX_MESSAGE_BYTES + b"\n",
    b"GET / HTTP/1.1\r\n\r\n",
)


def test_hostile_messages_are_refused_in_a_sentence(live: Live, place: Path) -> None:
    before, running = live.pipeline, counted()
    for message in HOSTILE:
        answer = told(place, message)
        assert not answer["ok"], message[:80]
        assert answer["said"].endswith("."), answer
        assert answer["said"].isprintable()
        assert len(answer["said"]) < 3_000
    for message in (b"", b'{"bundle": "/a"'):
        assert "a control message is one line: got" in told(place, message, ends=True)["said"]
    assert live.pipeline is before
    assert max(counted(running)) <= 0
    assert told(place, b"{}\n")["ok"]


def test_a_path_that_is_no_utf8_is_told_and_the_thread_lives(live: Live, place: Path) -> None:
    odd = place / os.fsdecode(b"mod\xe8le.edgefuse")
    shutil.move(place / "first.edgefuse", odd)
    live.swap(odd)
    for _ in range(2):
        answer = told(place, b"{}\n")
        assert answer["ok"], answer
        assert answer["said"].startswith(f"{place}/mod?le.edgefuse runs, digest ")


def test_where_there_is_no_descriptor_left_nothing_stays(
    place: Path, live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none() -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(socket, "socketpair", none)
    with pytest.raises(InputError, match=r"the socket '.*/other' cannot be made: got Too many open files\."):
        control.Control(live, place / "other")
    assert not (place / "other").exists()


def test_who_says_nothing_or_goes_is_left(live: Live, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(control, "MESSAGE_SECONDS", 0.05)
        said = told(place, b'{"bundle": ')["said"]
    # Which of the two it is depends on whether the bytes came before the time was over.
    assert re.search(r"did not come: got timed out|is one line: got 11 bytes without its end", said)
    for message in (b"", b'{"bundle": "/a"}\n'):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(place / "socket"))
            connection.sendall(message)
    assert told(place, b'{"bundle": "/a"}\n')["said"].startswith("the bundle '/a' ")


def test_who_drips_is_cut_off_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each piece comes in time, and the message does not."""
    here, there = socket.socketpair()
    times = iter(range(100))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(times)))
    with here, there:
        there.sendall(b"1234")
        with pytest.raises(InputError, match=r"one line: got 4 bytes without its end"):
            control._line(here, 1)


def test_only_this_user_may_ask(live: Live, place: Path) -> None:
    assert stat.S_IMODE((place / "socket").stat().st_mode) == 0o600
    if os.geteuid() == 0:  # another user's process is refused by the system
        place.chmod(0o755)
        script = "import os, sys, socket\nos.setuid(65534)\nsocket.socket(socket.AF_UNIX).connect(sys.argv[1])"
        done = subprocess.run(
            [sys.executable, "-c", script, place / "socket"], capture_output=True, text=True, check=False
        )
        assert "PermissionError" in done.stderr


def test_the_socket_goes_and_what_a_dead_process_left_is_replaced(live: Live, place: Path) -> None:
    with pytest.raises(InputError, match=r"another process listens at '.*'\. Fix"):
        live.listen(place / "socket")
    running = counted()
    with live.listen(place / "another"):
        assert control.ask(place / "another", None, None).endswith(live.digest)
    assert not (place / "another").exists()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(place / "dead"))
    with live.listen(place / "dead"):
        assert control.ask(place / "dead", None, None).endswith(live.digest)
    assert max(counted(running)) <= 0


def test_nothing_else_is_removed(live: Live, place: Path) -> None:
    (place / "file").write_text("mine", encoding="utf-8")
    (place / "link").symlink_to("socket")
    for name, found in (("file", "a file"), ("link", "a link"), (".", "a folder")):
        with pytest.raises(InputError, match=f"cannot be made: got {found} there"):
            live.listen(place / name)
    for name, found in (("a" * 200, "too long"), ("nowhere/socket", "No such file")):
        with pytest.raises(InputError, match=rf"the socket '.*' cannot be made: got .*{found}"):
            live.listen(place / name)
    assert (place / "file").read_text(encoding="utf-8") == "mine"
    with live.listen(place / "taken"):
        (place / "taken").unlink()
        (place / "taken").write_text("another's", encoding="utf-8")
    assert (place / "taken").exists()


def test_a_path_that_no_system_takes_is_refused(live: Live, place: Path) -> None:
    for ask in (live.listen, lambda path: control.ask(path, None, None)):
        with pytest.raises(InputError, match="the path of a socket holds a NUL"):
            ask(f"{place / 'another'}\0b")
    assert not (place / "another").exists()


def test_a_forked_child_that_ends_leaves_the_socket(live: Live, place: Path) -> None:
    in_child(live.close)
    assert told(place, b"{}\n")["ok"]


def test_where_nobody_listens_it_is_said(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["swap", str(place / "nothing"), "a.edgefuse"]) == 2
    said = capsys.readouterr().err
    assert "no process answers at the socket" in said
    assert "got No such file or directory, expected one that called live.listen." in said
    with pytest.raises(InputError, match="cannot be sent"):
        control.ask(place / "nothing", "/\ud800", None)


@pytest.mark.parametrize("answer", [b"", b"no\n", b'{"ok": 1}\n', b"a" * 20_000])
def test_what_answers_otherwise_is_said(answer: bytes, place: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place / "socket"))
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(InputError, match=r"the process at the socket '.*' gave no answer: got .*\. Fix: look into"):
            control.ask(place / "socket", None, None)
        thread.join()


def test_without_unix_sockets_it_is_said(live: Live, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "AF_UNIX")
    with pytest.raises(InputError, match=r"this system has no unix sockets\. Fix: call live\.swap\(\)"):
        live.listen(place / "other")
