"""Open and run each stage file of a bundle in a process of its own: a file that crashes a runtime crashes that process.

Files are checked before a runtime sees them (`edgefuse.bundle.stage_files`), but runtimes are native code: where one
dies or hangs all the same, `verify` says which file did it instead of dying, too.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from edgefuse.bundle.reader import Bundle, open_bundle
from edgefuse.errors import BackendError
from edgefuse.measure.agreement import check_candidate
from edgefuse.progress import Progress, silent
from edgefuse.runtime.backends.backend import EngineBuilder, SessionOptions
from edgefuse.runtime.backends.choice import Backends

_log = logging.getLogger(__name__)

SECONDS_PER_FILE = 120.0
"""Of starting, opening and running one file."""

_DYING_SECONDS = 5.0
_FIX = "do not use this bundle here; get it from its author again"
# The child finds its modules where this process does and, however it was started, not in its working directory.
_FROM_HERE = "import sys; sys.path[:] = sys.argv[1].split(sys.argv[2]); "
_CHILD = _FROM_HERE + "import edgefuse.measure.trial as trial; trial.main(sys.argv[3], int(sys.argv[4]))"


def check(
    bundle: Bundle, options: SessionOptions, *, seconds: float | None = None, progress: Progress = silent
) -> None:
    """Open every candidate's file and run its golden inputs in a process of its own.

    What a runtime merely refuses is not told: `agreement.check` does. Where no process can be started, that is logged.

    Args:
        bundle: to check.
        options: of the sessions.
        seconds: for each file; if None, the limit of the backend.
        progress: is told how many files are done.

    Raises:
        BackendError: a file makes the runtime crash, or keeps it busy beyond the time limit.
    """
    backend_of = {candidate.file: candidate.backend for candidate in bundle.manifest.candidates}
    files, limit = list(backend_of), seconds or _longest(bundle)
    try:
        child, reading = _started(bundle, options)
    except (OSError, ValueError) as error:
        _log.warning("stage files are opened in this process, untried: no other can be started here (%s)", error)
        return
    begun, done = "", False
    try:
        for count, message in enumerate(_messages(reading, limit)):
            begun, done = message["begun"], message["done"]
            progress(min(count, len(files)), len(files), "try files apart")
    except TimeoutError:
        if begun:
            raise BackendError(
                f"the stage file '{begun}' keeps the backend '{backend_of[begun]}' busy",
                got=f"no answer within {limit:g} s in a process of its own",
                fix=_FIX,
            ) from None
    finally:
        ending = _end(child)
    if begun and not done:
        what = f"the stage file '{begun}' crashes the backend '{backend_of[begun]}'"
        raise BackendError(what, got=ending, fix=_FIX)
    if not done:
        _log.warning("stage files are opened in this process, untried: the one that tries them ended by %s", ending)


def _started(bundle: Bundle, options: SessionOptions) -> tuple[subprocess.Popen[bytes], int]:
    """Start the process that tries the files; return it with the pipe on which it speaks."""
    task = {
        "path": str(bundle.path.absolute()),
        "digest": bundle.digest,
        "threads": options.threads,
        "spinning": options.spinning,
    }
    reading, writing = os.pipe()  # of our own: libraries write to stdout and stderr
    command = [sys.executable, "-c", _CHILD, os.pathsep.join(sys.path), os.pathsep, json.dumps(task), str(writing)]
    nowhere = subprocess.DEVNULL
    try:
        child = subprocess.Popen(command, stdin=nowhere, stdout=nowhere, stderr=nowhere, pass_fds=(writing,))
    except (OSError, ValueError):
        os.close(reading)
        raise
    finally:
        os.close(writing)
    return child, reading


def _longest(bundle: Bundle) -> float:
    """Return how long a file may take: longer where a backend builds something when it opens one for the first time."""
    backends = Backends(bundle.manifest)
    used = (backends.of(candidate) for candidate in bundle.manifest.candidates)
    return max((b.build_seconds for b in used if isinstance(b, EngineBuilder)), default=SECONDS_PER_FILE)


def _messages(reading: int, limit: float) -> Iterator[dict[str, Any]]:
    """Yield what a process says until it ends; `TimeoutError` where the next message takes longer than the limit."""
    lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()

    def read() -> None:
        with os.fdopen(reading, "rb") as pipe:
            for line in pipe:
                lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()  # a pipe has no time limit on every system
    while True:
        try:
            line = lines.get(timeout=limit)
        except queue.Empty:
            raise TimeoutError from None
        if line is None or not line.endswith(b"\n"):  # the process died in the middle of a line
            return
        yield json.loads(line)


def _end(child: subprocess.Popen[bytes]) -> str:
    """Wait for a process that has ended (it may be writing its memory to disk), else kill it; say how it ended."""
    with suppress(subprocess.TimeoutExpired):
        child.wait(_DYING_SECONDS)
    child.kill()
    code = child.wait()
    if code >= 0:
        return f"exit status {code}"
    names = {member.value: member.name for member in signal.Signals}
    return f"signal {names.get(-code, -code)}"


def main(task: str, writing: int) -> None:
    """Open and run every file, naming each before: the child's whole life."""
    asked = json.loads(task)
    options = SessionOptions(threads=asked["threads"], spinning=asked["spinning"])
    with (
        os.fdopen(writing, "w", encoding="utf-8") as said,
        open_bundle(asked["path"], digest=asked["digest"]) as bundle,
    ):

        def say(begun: str, *, done: bool = False) -> None:
            said.write(json.dumps({"begun": begun, "done": done}) + "\n")
            said.flush()

        backends = Backends(bundle.manifest)
        for candidate in bundle.manifest.candidates:
            say(candidate.file)
            with suppress(Exception):  # what Python can say is told by the check that follows, in the first process
                check_candidate(bundle, candidate, backends, options)
        say("", done=True)
