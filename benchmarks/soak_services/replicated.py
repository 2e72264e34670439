"""`edgefuse serve --replicas` in a process of its own, and the processes below it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from benchmarks.soak_services.service import address_of
from edgefuse.errors import MeasureError

_REPLICA = ["ray::ServeReplica:default:bundle"]
"""How Ray titles the processes with the bundle; what stands in front of them has a longer name."""
_ENDS_S = 60.0


class Replicated(NamedTuple):
    """A service that runs.

    Attributes:
        process: of the command.
        host: at which it answers.
        port: at which it answers.
    """

    process: subprocess.Popen[str]
    host: str
    port: int

    @property
    def replicas(self) -> set[int]:
        """The processes that answer, by number (Linux)."""
        return {pid for pid, words in below(self.process.pid).items() if words[:1] == _REPLICA}


@contextmanager
def replicated(bundle: Path, *words: str) -> Iterator[Replicated]:
    """Serve a bundle by replicas within the block.

    Args:
        bundle: that answers.
        words: of the command line.

    Raises:
        MeasureError: it does not start.
    """
    command = [sys.executable, "-m", "edgefuse", "serve", str(bundle), "--http", "127.0.0.1:0", "--json", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        told = process.stdout.readline()
        if not told:
            raise MeasureError("the service does not start", got=f"exit code {process.wait()}")
        yield Replicated(process, *address_of(json.loads(told)["http"]))
    finally:
        process.terminate()
        try:
            process.communicate(timeout=_ENDS_S)
        except subprocess.TimeoutExpired:
            for pid in (*below(process.pid), process.pid):
                os.kill(pid, signal.SIGKILL)
            process.communicate()


def below(root: int) -> dict[int, list[str]]:
    """Return the command lines of all processes below one, by number (Linux).

    Args:
        root: its number.
    """
    parents: dict[int, int] = {}
    words: dict[int, list[str]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        pid = int(folder.name)
        try:
            state, parent, *_ = (folder / "stat").read_bytes().rpartition(b")")[2].split()
            words[pid] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").split()
        except OSError:  # it has ended
            continue
        parents[pid] = int(parent) if state != b"Z" else 0
    found = {root}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return {pid: words[pid] for pid in found - {root}}
