"""The host's side of a connection: start the agent on a device, hand it tasks, and see that nothing stays there."""

from __future__ import annotations

import base64
import hashlib
import os
import shlex
import subprocess
import tempfile
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, TypeVar

import msgspec

from edgefuse.device.agent import FULL, GREETING, File, Greeting, Reply, Request
from edgefuse.device.archive import archive
from edgefuse.device.device import Device
from edgefuse.device.tasks import Task
from edgefuse.errors import DeviceError
from edgefuse.progress import Progress, silent

Result = TypeVar("Result")

PYTHON = "python3"
_NO_PYTHON, _NO_FOLDER = 95, 96  # exit codes of the script
_SIGN_OF_LIFE_SECONDS = 10
_GOODBYE_SECONDS = 15
_MAX_LINE = 1 << 16
_MAX_RESULT = 1 << 28
_CHUNK = 1 << 20
# One line, for the shell that the user logs in with may be any; it only starts ours. What the runtimes keep for later
# goes into the folder, too. The shell stays until the agent has ended, however that was.
_SCRIPT = (
    'umask 077; d=$(mktemp -d "{folder}/edgefuse.XXXXXXXX") || exit {no_folder}; '
    "trap 'exit 1' HUP INT TERM; trap 'cd /; rm -rf \"$d\"' EXIT; cd \"$d\" || exit {no_folder}; "
    'export TMPDIR="$d" XDG_CACHE_HOME="$d" EDGEFUSE_CACHE="$d"; '
    "command -v {python} >/dev/null || exit {no_python}; "
    '{python} -c \'exec(__import__("base64").b64decode("{bootstrap}"))\''
)


class Session:
    """A device with an agent on it, as a context manager: what was sent there is gone when it ends.

    Args:
        device: how to reach it.
        python: its Python: a name or an absolute path; `~/` is the home of the user there.

    Raises:
        DeviceError: on entering, if the device cannot be reached or has not what it takes.
    """

    def __init__(self, device: Device, python: str = PYTHON) -> None:
        self._device = device
        self._python = python
        self._lock = threading.Lock()
        self._closing = threading.Event()

    def __enter__(self) -> Session:
        command = self._device.command(_script(self._device.folder, self._python))
        self._complaints: IO[bytes] = tempfile.TemporaryFile()
        # A session of its own: an interrupt from the keyboard is for us, who then say goodbye.
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            env=os.environ | {"LC_ALL": "C"},
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._to, self._from = self._process.stdin, self._process.stdout
        try:
            self._greet()
        except BaseException:
            self._close()
            raise
        threading.Thread(target=self._live, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def run(
        self, task: Task, kind: type[Result], files: Mapping[str, Path | bytes], progress: Progress = silent
    ) -> Result:
        """Have a task done.

        Args:
            task: what to do.
            kind: of its result.
            files: what it needs, by the names that it gives them.
            progress: is told what the device tells.

        Raises:
            DeviceError: if the device goes away, has no room, answers garbage or cannot do it.
        """
        header = Request(task, tuple(_announced(name, content) for name, content in files.items()))
        try:
            with self._lock:
                self._to.write(msgspec.json.encode(header) + b"\n")
                for content in files.values():
                    self._send(content)
                self._to.flush()
        except OSError as error:
            raise self._gone() from error
        return self._result(kind, progress)

    def _send(self, content: Path | bytes) -> None:
        if isinstance(content, bytes):
            self._to.write(content)
            return
        with content.open("rb") as source:
            while chunk := source.read(_CHUNK):
                self._to.write(chunk)

    def _result(self, kind: type[Result], progress: Progress) -> Result:
        while True:
            reply = self._reply()
            if reply.progress is not None:
                progress(*reply.progress)
            elif reply.full:
                raise _no_room(reply.error[1] if reply.error else "")
            elif reply.error is not None:
                raise DeviceError(f"on the device: {reply.error[1].rstrip('.')}")
            else:
                break
        data = self._from.read(min(reply.size, _MAX_RESULT))
        if len(data) < reply.size or not self._from.readline(_MAX_LINE):
            raise self._gone()
        if hashlib.sha256(data).hexdigest() != reply.sha256:
            raise _damaged("its hash is another")
        try:
            return msgspec.json.decode(data, type=kind)
        except msgspec.MsgspecError as error:
            raise _damaged(str(error)) from error

    def _reply(self) -> Reply:
        line = self._from.readline(_MAX_LINE)
        if not line:
            raise self._gone()
        try:
            return msgspec.json.decode(line, type=Reply)
        except msgspec.MsgspecError as error:
            raise _damaged(str(error)) from error

    def _greet(self) -> None:
        """Send our package and wait for the agent, past whatever a login shell may print."""
        data = archive()
        try:
            self._to.write(f"{len(data)} {hashlib.sha256(data).hexdigest()}\n".encode() + data)
            self._to.flush()
        except OSError as error:
            raise self._gone() from error
        while line := self._from.readline(_MAX_LINE):
            if line.startswith(GREETING):
                with suppress(msgspec.MsgspecError):
                    return _check(msgspec.json.decode(line.removeprefix(GREETING), type=Greeting))
                raise _damaged("its greeting cannot be read")
        raise self._gone()

    def _live(self) -> None:
        """Give the agent signs of life."""
        with suppress(OSError, ValueError):
            while not self._closing.wait(_SIGN_OF_LIFE_SECONDS):
                with self._lock:
                    self._to.write(b"\n")
                    self._to.flush()

    def _gone(self) -> DeviceError:
        """Say why the other side has ended."""
        self._end()
        self._complaints.seek(0)
        code, complaint = self._process.returncode, self._complaints.read().decode(errors="replace")
        if lost := self._device.lost(code, complaint):
            return lost
        last = (complaint.strip().splitlines() or ["no message"])[-1]
        if code == _NO_PYTHON:
            return DeviceError(
                "the device has no such Python",
                got=repr(self._python),
                fix="install Python 3.10 or newer there, or name another one (--device-python, [device] python)",
            )
        if code == _NO_FOLDER:
            return _no_room(last)
        return DeviceError(
            "the device went away in the middle of it, or what ran there was killed",
            got=f"exit code {code}, '{last}'",
            fix="check that it is still on and has enough memory, then try again",
        )

    def _end(self) -> None:
        """Say goodbye and wait until the device has cleaned up; a client that does not come back is ended."""
        self._closing.set()
        with suppress(OSError):
            self._to.close()
        try:
            self._process.wait(_GOODBYE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _close(self) -> None:
        self._end()
        self._from.close()
        self._complaints.close()


def _script(folder: str, python: str) -> str:
    """Return the command line for the device's shell."""
    source = (Path(__file__).parent / "bootstrap.py").read_bytes()
    home, rest = ('"$HOME"/', python[2:]) if python.startswith("~/") else ("", python)
    script = _SCRIPT.format(
        folder=folder,
        python=home + shlex.quote(rest),
        bootstrap=base64.b64encode(source).decode(),
        no_python=_NO_PYTHON,
        no_folder=_NO_FOLDER,
    )
    return f"exec sh -c {shlex.quote(script)}"


def _announced(name: str, content: Path | bytes) -> File:
    if isinstance(content, bytes):
        return File(name, len(content), hashlib.sha256(content).hexdigest())
    with content.open("rb") as source:
        digest = hashlib.sha256()
        while chunk := source.read(_CHUNK):
            digest.update(chunk)
        return File(name, source.tell(), digest.hexdigest())


def _check(greeting: Greeting) -> None:
    """Refuse a device on which the agent cannot run."""
    where = f"{greeting.executable} (Python {greeting.python})"
    if greeting.module:
        raise DeviceError(
            f"the device's Python lacks the module '{greeting.module}'",
            got=where,
            fix="install there what a bundle needs: numpy, msgspec and its runtime (onnxruntime or ai-edge-litert)",
        )
    if greeting.python:
        raise DeviceError("the device's Python is too old", got=where, expected="3.10 or newer")
    if greeting.damaged:
        raise DeviceError("what was sent to the device arrived damaged", fix="try again")
    if greeting.errno in FULL:
        raise _no_room(greeting.system)
    if greeting.system:
        raise DeviceError("the device's system refused", got=repr(greeting.system))


def _no_room(said: str) -> DeviceError:
    return DeviceError(
        "there is no room on the device",
        got=repr(said),
        expected="a folder for temporary files with some space",
        fix="free some there, or let TMPDIR there name another folder",
    )


def _damaged(why: str) -> DeviceError:
    return DeviceError("what came back from the device is damaged", got=why, fix="try again")
