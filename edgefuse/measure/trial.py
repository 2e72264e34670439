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
from types import MappingProxyType

from edgefuse import registry
from edgefuse.bundle.reader import Bundle, open_bundle
from edgefuse.errors import BackendError
from edgefuse.measure.agreement import check_candidate
from edgefuse.progress import Progress, silent
from edgefuse.runtime.backends.backend import SessionOptions

_log = logging.getLogger(__name__)

SECONDS_PER_FILE = 120.0
"""Of starting, opening and running one file."""

_BUILDING_SECONDS = MappingProxyType({"tensorrt": 3600.0})
"""Of backends that build something when a file is opened for the first time."""

_END = "end"
_DYING_SECONDS = 5.0
_FIX = "do not use this bundle here; get it from its author again"
# The child finds its modules where this process does and, however it was started, not in its working directory.
_FROM_HERE = "import sys; sys.path[:] = sys.argv[1].split(sys.argv[2]); "
_CHILD = _FROM_HERE + "import edgefuse.measure.trial as trial; trial.main(sys.argv[3])"


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
    backend, files = bundle.manifest.backend, [candidate.file for candidate in bundle.manifest.candidates]
    limit = seconds or _BUILDING_SECONDS.get(backend, SECONDS_PER_FILE)
    task = {
        "path": str(bundle.path.absolute()),
        "digest": bundle.digest,
        "threads": options.threads,
        "spinning": options.spinning,
    }
    command = [sys.executable, "-c", _CHILD, os.pathsep.join(sys.path), os.pathsep, json.dumps(task)]
    try:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
    except (OSError, ValueError) as error:
        _log.warning("stage files are opened in this process, untried: no other can be started here (%s)", error)
        return
    started = ""
    try:
        for line in _lines(child, limit):
            if line in (*files, _END):  # libraries may write to stdout, too
                started = line
                progress(files.index(line) if line in files else len(files), len(files), "try files apart")
    except TimeoutError:
        raise BackendError(
            f"the stage file '{started or files[0]}' keeps the backend '{backend}' busy",
            got=f"no answer within {limit:g} s in a process of its own",
            fix=_FIX,
        ) from None
    finally:
        ending = _end(child)
    if started not in ("", _END):
        raise BackendError(f"the stage file '{started}' crashes the backend '{backend}'", got=ending, fix=_FIX)


def _lines(child: subprocess.Popen[str], limit: float) -> Iterator[str]:
    """Yield what a process writes until it ends; `TimeoutError` where the next line takes longer than the limit."""
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def read() -> None:
        if child.stdout is not None:
            with child.stdout:
                for line in child.stdout:
                    lines.put(line.strip())
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()  # a pipe has no time limit on every system
    while True:
        try:
            line = lines.get(timeout=limit)
        except queue.Empty:
            raise TimeoutError from None
        if line is None:
            return
        yield line


def _end(child: subprocess.Popen[str]) -> str:
    """Wait for a process that has ended (it may be writing its memory to disk), else kill it; say how it ended."""
    with suppress(subprocess.TimeoutExpired):
        child.wait(_DYING_SECONDS)
    child.kill()
    code = child.wait()
    if code >= 0:
        return f"exit status {code}"
    names = {member.value: member.name for member in signal.Signals}
    return f"signal {names.get(-code, -code)}"


def main(task: str) -> None:
    """Open and run every file, naming each before; the child's whole life."""
    asked = json.loads(task)
    options = SessionOptions(threads=asked["threads"], spinning=asked["spinning"])
    try:
        with open_bundle(asked["path"], digest=asked["digest"]) as bundle:
            backend = registry.create("backends", bundle.manifest.backend)
            for candidate in bundle.manifest.candidates:
                _say(candidate.file)
                check_candidate(bundle, candidate, backend, options)
    finally:
        _say(_END)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
