"""The host's side of a connection: start the agent on a device, hand it tasks, and see that nothing stays there.

Every wait ends. A device must greet within the time limit. Then it must give a sign of life as often (the agent answers
ours at once), or take some of what it is sent; and what lives but does not get on is given up after `WORK` limits.
"""

from __future__ import annotations

import base64
import hashlib
import os
import shlex
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import msgspec

from edgefuse.device.agent import FULL, GREETING, SIGN, File, Greeting, Progressed, Reply, Request
from edgefuse.device.archive import archive
from edgefuse.device.device import TIMEOUT_SECONDS, Device, checked_timeout
from edgefuse.device.tasks import Task
from edgefuse.device.wire import End, Flood, Silence, Wire
from edgefuse.errors import BackendError, DeviceError, DeviceTaskError, MeasureError, shown
from edgefuse.progress import Progress, silent
from edgefuse.typed_json import decode

Result = TypeVar("Result")

PYTHON = "python3"
WORK = 30
"""How many time limits a task may take without progress: an engine is built for minutes."""

_NO_PYTHON, _NO_FOLDER = 95, 96  # exit codes of the script
_SIGN_OF_LIFE_SECONDS = 10.0
_GOODBYE_SECONDS, _HURRIED_SECONDS = 15.0, 2.0
_MAX_LINE = 1 << 16
_MAX_PRINTED = 1 << 24  # by a login shell, before the agent greets
_FRAMES, _FRAMES_A_SECOND = 1_000, 50  # an agent sends a handful a second, and what was held up comes at once
_CHUNK = 1 << 20
_OF_THE_RUNTIME = (BackendError.__name__, MeasureError.__name__)
_WAIT = "check the device, or wait longer for it (--device-timeout, [device] timeout_seconds)"
# One line, for the shell that the user logs in with may be any; it only starts ours. What the runtimes keep for later
# goes into the folder, too. The shell stays until the agent has ended, however that was, and ends what it started then.
_SCRIPT = (
    'umask 077; d=$(mktemp -d "{folder}/edgefuse.XXXXXXXX") || exit {no_folder}; '
    "trap 'exit 1' HUP INT TERM; trap 'cd /; rm -rf \"$d\"' EXIT; cd \"$d\" || exit {no_folder}; "
    'export TMPDIR="$d" XDG_CACHE_HOME="$d" EDGEFUSE_CACHE="$d"; '
    "command -v {python} >/dev/null || exit {no_python}; "
    'exec 3<&0; {python} -c \'exec(__import__("base64").b64decode("{bootstrap}"))\' <&3 3<&- & p=$!; wait $p; c=$?; '
    "kill -9 -$p 2>/dev/null; exit $c"
)


class DeviceSession:
    """A device with an agent on it, as a context manager: the files sent there are removed when it ends.

    Args:
        device: how to reach it.
        python: its Python: a name or an absolute path; `~/` is the home of the user there.
        timeout_seconds: how long it may take to greet, and be silent after that.

    Raises:
        DeviceError: on entering, if the device cannot be reached or has not what it takes.
    """

    def __init__(self, device: Device, python: str = PYTHON, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        if not python.isprintable() or not python.strip():
            raise DeviceError(
                "the name of the device's Python is unusable", got=repr(python), expected="a name or an absolute path"
            )
        self._device = device
        self._python = python
        self._seconds = checked_timeout(timeout_seconds)
        self._hurried_seconds = min(self._seconds, _HURRIED_SECONDS)
        self._closing = threading.Event()
        self._greeted = False

    def __enter__(self) -> DeviceSession:
        command = self._device.command(_script(self._device.folder, self._python), self._seconds)
        self._wire = Wire(command, os.environ | {"LC_ALL": "C"})
        try:
            self._greet()
        except BaseException:
            self._end(self._hurried_seconds)
            raise
        threading.Thread(target=self._live, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end(_GOODBYE_SECONDS)

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
            DeviceTaskError: if its runtime cannot do it.
            DeviceError: if the device goes away, falls silent, has no room, answers garbage or lacks something.
        """
        header = Request(task, tuple(_announced(name, content) for name, content in files.items()))
        with self._talking() as deadline:
            self._wire.send(_message(header, files), self._seconds, deadline)
        reply = self._answer(progress)
        with self._talking() as deadline:
            data = self._wire.read(reply.size, self._seconds, deadline)
            self._wire.line(_MAX_LINE, self._seconds, deadline)
            if hashlib.sha256(data).hexdigest() != reply.sha256:
                raise _damaged("its hash is another")
            return _decoded(data, kind)

    def _answer(self, progress: Progress) -> Reply:
        """Return the header of a result, and pass on what comes before."""
        pace, known = _Pace(), None
        while True:
            with self._talking() as deadline:
                reply = self._news(known, pace, deadline)
            if reply.full:
                raise _no_room(reply.error[1] if reply.error else "")
            if reply.error is not None:
                kind = DeviceTaskError if reply.error[0] in _OF_THE_RUNTIME else DeviceError
                raise kind(f"on the device: {reply.error[1].rstrip('.')}")
            if reply.progress is None:
                return reply
            known = reply.progress
            progress(*known)

    def _news(self, known: Progressed | None, pace: _Pace, deadline: float) -> Reply:
        """Return the next frame that says something new."""
        while True:
            line = self._wire.line(_MAX_LINE, self._seconds, deadline)
            pace.count()
            if line.strip():  # else it answers a sign of life
                reply = _decoded(line, Reply)
                if reply.progress is None or reply.progress != known:
                    return reply

    def _greet(self) -> None:
        """Send our package and wait for the agent, past whatever a login shell may print."""
        data = archive()
        head = f"{len(data)} {hashlib.sha256(data).hexdigest()}\n".encode()
        with self._talking() as deadline:
            with suppress(End):  # a Python that is too old does not read this, but says so
                self._wire.send((head, data), self._seconds, deadline)
            self._wire.skip(b"\n" + GREETING, _MAX_PRINTED, deadline)
            line = self._wire.line(_MAX_LINE, self._seconds, deadline)
            _check(_decoded(line, Greeting))
        self._greeted = True

    def _live(self) -> None:
        """Give the agent signs of life, which it answers."""
        while not self._closing.wait(min(_SIGN_OF_LIFE_SECONDS, self._seconds / 4)):
            self._wire.nudge(SIGN)

    @contextmanager
    def _talking(self) -> Iterator[float]:
        """Give a deadline; what goes wrong within the block ends the connection."""
        deadline = time.monotonic() + self._seconds * (WORK if self._greeted else 1)
        try:
            yield deadline
        except End as end:
            raise self._gone() from end
        except Silence as silence:
            raise self._silent(self._greeted and time.monotonic() >= deadline) from silence
        except Flood as flood:
            self._end(self._hurried_seconds)
            raise DeviceError(
                "the device sends without end" if self._greeted else "the device's login shell prints without end",
                got=repr(self._last_words(cut_off=True)),
                fix="look at what it runs at a login" if not self._greeted else "check the device, then try again",
            ) from flood
        except DeviceError:
            self._end(self._hurried_seconds)
            raise

    def _gone(self) -> DeviceError:
        """Say why the other side has ended."""
        code = self._end(max(self._seconds, _HURRIED_SECONDS))
        if lost := self._device.lost(code, self._wire.complaint.text()):
            return lost
        if code == _NO_PYTHON:
            return DeviceError(
                "the device has no such Python",
                got=repr(self._python),
                fix="install Python 3.10 or newer there, or name another one (--device-python, [device] python)",
            )
        if code == _NO_FOLDER:
            return _no_room(self._last_words())
        how = "a connection that was half closed" if self._wire.killed else f"exit code {code}"
        got = f"{how}, {self._last_words()!r}"
        if not self._greeted:
            return DeviceError(
                "the device did not start the program that was sent",
                got=got,
                expected="a login shell that can run \"exec sh -c '...'\", and a Python",
                fix="log in by hand and see what it says",
            )
        return DeviceError(
            "the connection ended in the middle of a task, or the task was killed on the device",
            got=got,
            fix="check that the device is still on and has enough memory, then try again",
        )

    def _silent(self, worked: bool) -> DeviceError:
        """Say that a deadline has passed; the client may know more."""
        code = self._end(self._hurried_seconds)
        if not self._wire.killed and (lost := self._device.lost(code, self._wire.complaint.text())):
            return lost
        if not self._greeted:
            return DeviceError(
                f"the device did not greet within {self._seconds:g} s", got=repr(self._last_words()), fix=_WAIT
            )
        if worked:
            return DeviceError(f"the device made no progress for {WORK * self._seconds:g} s", fix=_WAIT)
        return DeviceError(f"the device was silent for {self._seconds:g} s in the middle of it", fix=_WAIT)

    def _last_words(self, *, cut_off: bool = False) -> str:
        """Return the last line that was complained or, failing that, printed before the agent greeted.

        Where the very last was cut off, that is the one before it.
        """
        words = (self._wire.complaint.text().strip(), self._wire.printed.text().strip())
        lines = next((word.splitlines() for word in words if word), ["no message"])
        return shown((lines[-2] if cut_off and len(lines) > 1 else lines[-1]).strip())

    def _end(self, patience_seconds: float) -> int:
        """Say goodbye and wait until the device has cleaned up; a client that does not come back is ended.

        Nothing stays there in that case either: then it is the device's shell that hears of the end.
        """
        self._closing.set()
        return self._wire.end(min(patience_seconds, _GOODBYE_SECONDS))


class _Pace:
    """Counts what comes, and does not put up with more than there can be."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._frames = 0

    def count(self) -> None:
        self._frames += 1
        if self._frames > _FRAMES + _FRAMES_A_SECOND * (time.monotonic() - self._began):
            raise Flood


def _message(header: Request, files: Mapping[str, Path | bytes]) -> Iterator[bytes]:
    """Yield a task with its files, part by part."""
    yield msgspec.json.encode(header) + b"\n"
    for content in files.values():
        if isinstance(content, bytes):
            yield content
        else:
            with content.open("rb") as source:
                while chunk := source.read(_CHUNK):
                    yield chunk


def _decoded(data: bytes, kind: type[Result]) -> Result:
    try:
        return decode(data, kind)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise _damaged(str(error)) from error


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
    if greeting.module.partition(".")[0] == "edgefuse":
        raise DeviceError("what was sent to the device is not complete", got=greeting.module, fix="report this to us")
    if greeting.module:
        raise DeviceError(
            f"the device's Python lacks the module '{greeting.module}'",
            got=where,
            fix="install there numpy, msgspec and the bundle's runtime: pip install 'edgefuse[TARGET]' brings them",
        )
    if greeting.python:
        raise DeviceError("the device's Python is too old", got=where, expected="3.10 or newer")
    if greeting.damaged:
        raise DeviceError("the program arrived damaged on the device", fix="try again")
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
    return DeviceError("the answer of the device is damaged", got=why, fix="try again")
