"""The agent: runs on the device, does one task after the other, and goes as soon as nobody is there any more.

Frames go both ways, a header line of JSON each, then what it announces. The host sends tasks with their files, and an
empty line now and then as a sign of life, which the agent sends back at once; a task is answered by progress, then a
result or an error. The agent stands in a folder of its own, made by the shell that started it. It removes that folder
and kills what it started

- when its stdin ends, which is how the host says goodbye and also what happens when the host is killed or the
  connection is cut; it is read by a thread of its own, so this holds in the middle of a measurement;
- when nothing was heard for `SILENCE_SECONDS`: then the network is gone and nobody could tell.

The shell waits for the agent and removes the folder, too, so that it goes even when the agent is killed.
"""

from __future__ import annotations

import errno
import hashlib
import os
import queue
import shutil
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated, BinaryIO, TypeAlias

import msgspec

from edgefuse.device.tasks import Task
from edgefuse.errors import DeviceError, EdgefuseError
from edgefuse.typed_json import decode

GREETING = b"edgefuse-agent "
SIGN = b"\n"
MAX_RESULT = 1 << 26
SILENCE_SECONDS = 60
_CHUNK = 1 << 16
_PROGRESS_SECONDS = 0.5
FILES = Path("files")
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]
Progressed: TypeAlias = tuple[Count, Count, str]


class File(msgspec.Struct, frozen=True):
    """A file that follows a header: its name below the task's folder, its size and hash."""

    name: str
    size: int
    sha256: str


class Greeting(msgspec.Struct, frozen=True):
    """The first message of the device: empty if all is well, else the fault that `bootstrap` found."""

    python: str = ""
    executable: str = ""
    module: str = ""
    system: str = ""
    errno: int = 0
    damaged: bool = False


class Request(msgspec.Struct, frozen=True):
    """The header of a task."""

    task: Task
    files: tuple[File, ...]


class Reply(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The header of the agent's answer: progress, an error, or size and hash of the result, which follows as a line.

    Attributes:
        error: its class, empty for one of the system, and its sentence.
        full: whether there is no room on the device.
    """

    progress: Progressed | None = None
    error: tuple[str, str] | None = None
    full: bool = False
    size: Annotated[int, msgspec.Meta(ge=0, le=MAX_RESULT)] = 0
    sha256: str = ""


Failure: TypeAlias = OSError | DeviceError
Received: TypeAlias = Task | Failure


def serve(source: BinaryIO) -> None:
    """Do what is asked for on `source`, and answer on stdout; returns never."""
    with suppress(PermissionError):  # it leads its group already
        os.setsid()
    speaker = Speaker(os.fdopen(os.dup(1), "wb"))
    os.dup2(2, 1)  # what a runtime prints must not stand among the frames
    sys.stdout = sys.stderr
    tasks: queue.SimpleQueue[Received] = queue.SimpleQueue()
    # A line of its own, whatever a login shell has printed before.
    speaker.say(b"\n" + GREETING + b"{}\n")
    threading.Thread(target=_listen, args=(source, tasks, speaker), daemon=True).start()
    while True:
        _do(tasks.get(), speaker)


class Speaker:
    """Sends frames, each as a whole, from any thread."""

    def __init__(self, target: BinaryIO) -> None:
        self._target = target
        self._lock = threading.Lock()

    def say(self, frame: bytes) -> None:
        """Send a frame."""
        with self._lock:
            self._target.write(frame)
            self._target.flush()


def _listen(source: BinaryIO, tasks: queue.SimpleQueue[Received], speaker: Speaker) -> None:
    """Receive tasks until the source ends; then remove everything and end this process and its children."""
    try:
        while line := _heard(source.readline()):
            if line.strip():
                tasks.put(_received(decode(line, Request), source))
            else:
                speaker.say(SIGN)
    finally:
        _end()


# What still writes cannot be cleared away: first it is killed, and a folder that is filled meanwhile is removed again.
_CLEAR = (
    'exec </dev/null >/dev/null 2>&1; cd /; kill -9 -"$1"; '
    'for i in 1 2 3 4 5; do rm -rf "$2"; [ -e "$2" ] || exit 0; sleep 1; done'
)


_MERCY_SECONDS = 5.0
"""Until this process ends itself if nobody did."""


def _end() -> None:
    """Let a shell of another group end this process and its children, and then remove all that they wrote."""
    folder = str(Path.cwd())
    try:
        os.posix_spawnp("sh", ["sh", "-c", _CLEAR, "sh", str(os.getpgrp()), folder], os.environ, setpgroup=0)
    except OSError:  # there is no room for another process
        shutil.rmtree(folder, ignore_errors=True)
    else:
        time.sleep(_MERCY_SECONDS)
    os.killpg(0, signal.SIGKILL)


def _heard(data: bytes) -> bytes:
    """Put off the end by which a silence is answered: the alarm, which nobody handles, ends the process."""
    signal.alarm(SILENCE_SECONDS)
    return data


def _received(request: Request, source: BinaryIO) -> Received:
    """Write the files of a request; return its task, or why a file cannot be written."""
    failures = [failure for file in request.files if (failure := _stored(file, source)) is not None]
    return failures[0] if failures else request.task


def _stored(file: File, source: BinaryIO) -> Failure | None:
    """Take a file off the source in any case, and write it if that is possible."""
    path, left, digest, failure = FILES / file.name, file.size, hashlib.sha256(), None
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb", buffering=0) as target:
        while left:
            if not (chunk := _heard(source.read(min(left, _CHUNK)))):
                raise EOFError
            left -= len(chunk)
            digest.update(chunk)
            try:
                failure or target.write(chunk)
            except OSError as error:
                failure = error
    if failure is None and digest.hexdigest() != file.sha256:
        return DeviceError(f"the file '{file.name}' arrived damaged", fix="try again")
    return failure


def _do(received: Received, speaker: Speaker) -> None:
    """Do a task and answer."""
    began = time.monotonic()

    def progress(done: int, total: int, what: str) -> None:
        nonlocal began
        if (now := time.monotonic()) - began >= _PROGRESS_SECONDS:
            began = now
            speaker.say(_frame(Reply(progress=(done, total, what))))

    try:
        if isinstance(received, Exception):
            raise received
        data = msgspec.json.encode(received(FILES.absolute(), progress))
        reply = Reply(size=len(data), sha256=hashlib.sha256(data).hexdigest())
    except EdgefuseError as error:
        data, reply = b"", Reply(error=(type(error).__name__, str(error)))
    except OSError as error:
        data, reply = b"", Reply(error=("", error.strerror or str(error)), full=error.errno in FULL)
    shutil.rmtree(FILES, ignore_errors=True)
    speaker.say(_frame(reply, data))


def _frame(reply: Reply, data: bytes = b"") -> bytes:
    # Ends with a line, too: what passes frames on line by line must not keep the end of one to itself.
    return msgspec.json.encode(reply) + b"\n" + (data + b"\n" if data else b"")
