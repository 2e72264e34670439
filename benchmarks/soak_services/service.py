"""`edgefuse serve` in a process and folders of its own: what it takes of memory, what it writes and says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeAlias
from urllib.parse import urlsplit

from edgefuse.errors import MeasureError

Address: TypeAlias = tuple[str, int]
_ENDS_S = 30.0
_RESET_PEAK = "5"  # as proc(5) has it


class Usage(NamedTuple):
    """Resident memory of a process, in bytes: now, and the most since the peak was last forgotten."""

    now: int
    peak: int


@dataclass(frozen=True)
class Service:
    """A service that runs.

    Attributes:
        process: of the command.
        http: host and port.
        wyoming: host and port.
        folder: the only one that it has reason to write to: where it stands, its home, and for what is temporary.
        log: what it says.
    """

    process: subprocess.Popen[bytes]
    http: Address
    wyoming: Address
    folder: Path
    log: Path

    def usage(self) -> Usage:
        """Return what it takes of memory (Linux)."""
        text = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        found = dict(line.split(":", 1) for line in text.splitlines())
        return Usage(*(1024 * int(found[name].split()[0]) for name in ("VmRSS", "VmHWM")))

    def forget_peak(self) -> None:
        """Let the peak of its memory begin anew."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text(_RESET_PEAK, encoding="ascii")

    def written(self) -> list[str]:
        """Return the files that it has left in its folders."""
        return sorted(str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if not path.is_dir())

    def said(self) -> bytes:
        """Return what it has said."""
        return self.log.read_bytes()


@contextmanager
def serving(bundle: Path, *words: str) -> Iterator[Service]:
    """Serve a bundle over HTTP and Wyoming within the block.

    Args:
        bundle: to be served.
        words: more of the command line.

    Raises:
        MeasureError: it does not start.
    """
    with tempfile.TemporaryDirectory() as scratch:
        log, folder = Path(scratch) / "log", Path(scratch) / "own"
        folder.mkdir()
        command = [sys.executable, "-m", "edgefuse", "serve", str(bundle.resolve()), "--json", *words]
        command += ["--http", "127.0.0.1:0", "--wyoming", "tcp://127.0.0.1:0"]
        own = dict.fromkeys(("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "EDGEFUSE_CACHE"), str(folder))
        with log.open("wb") as stderr:
            process = subprocess.Popen(command, cwd=folder, env=os.environ | own, stdout=subprocess.PIPE, stderr=stderr)
        try:
            told = _told(process, log)
            yield Service(process, address_of(told["http"]), address_of(told["wyoming"]), folder, log)
        finally:
            _end(process)


def _told(process: subprocess.Popen[bytes], log: Path) -> dict[str, str]:
    """Return the addresses that a service prints when it listens."""
    assert process.stdout is not None
    text = process.stdout.readline()
    if not text:
        said = log.read_text(encoding="utf-8", errors="replace").splitlines() or ["nothing"]
        raise MeasureError("the service does not start", got=said[-1])
    return {str(name): str(value) for name, value in json.loads(text).items()}


def address_of(url: str) -> Address:
    """Return host and port of a URL that a service prints."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.communicate(timeout=_ENDS_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
