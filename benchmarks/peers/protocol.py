"""The parent's side of a worker: start it, ask it, and turn what it dies of into one sentence."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, cast

from benchmarks.peers.environment import home, variables
from edgefuse.errors import MeasureError

_LONGEST = 240


def build(python: Path, arguments: Sequence[str], log: Path, seconds: float) -> list[Path]:
    """Run a worker's `build` and return the files it made.

    Raises:
        MeasureError: if the peer fails, or takes longer than `seconds`.
    """
    with log.open("w", encoding="utf-8") as errors, home() as folder:
        try:
            done = subprocess.run(
                _command(python, "build", arguments),
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=log.parent,
                env=variables(folder),
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise MeasureError(f"not done after {seconds:.0f} s") from error
    if done.returncode:
        raise MeasureError(last_words(log, done.returncode))
    return [Path(path) for path in json.loads(done.stdout.splitlines()[-1])["files"]]


def _command(python: Path, action: str, arguments: Sequence[str]) -> list[str]:
    return [str(python), "-m", "benchmarks.peers.worker", action, *arguments]


def last_words(log: Path, code: int) -> str:
    """Return why a process ended, as one line: the last exception in its log, else its last line."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    traces = [index for index, line in enumerate(lines) if line.startswith("Traceback")]
    # Below the frames of a trace, which are indented, stands the exception.
    after = [line for line in lines[traces[-1] + 1 :] if line[:1].strip()] if traces else lines[-1:]
    message = " ".join(" ".join(after[:4]).split())
    return message[:_LONGEST] or f"ended with code {code}"


class Worker:
    """A process that has opened a file and answers commands; a context manager that ends it.

    Attributes:
        process: its id.

    Raises:
        MeasureError: if the process ends before it answers.
    """

    def __init__(self, python: Path, runtime: str, file: Path, subject: Path, log: Path) -> None:
        self._log = log
        self._home = home()
        with log.open("w", encoding="utf-8") as errors:
            self._process = subprocess.Popen(
                _command(python, "serve", [runtime, str(file), str(subject)]),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=log.parent,
                env=variables(self._home.name),
            )
        self.process = self._process.pid
        try:
            self._read()
        except MeasureError:
            self.close()
            raise

    def ask(self, **command: Any) -> dict[str, Any]:
        """Send a command and return its answer."""
        commands = cast("IO[str]", self._process.stdin)
        try:
            commands.write(json.dumps(command) + "\n")
            commands.flush()
        except BrokenPipeError as error:
            raise MeasureError(last_words(self._log, self._process.wait())) from error
        return self._read()

    def judge(self, file: Path, items: int) -> None:
        """Write the answers to the test split."""
        self.ask(do="judge", file=str(file), items=items)

    def time(self, settle: int, burst: int) -> list[int]:
        """Return the nanoseconds of a burst of timed calls, after some untimed ones."""
        return cast("list[int]", self.ask(do="time", settle=settle, burst=burst)["ns"])

    def close(self) -> None:
        """End the process."""
        for pipe in (self._process.stdin, self._process.stdout):
            cast("IO[str]", pipe).close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._home.cleanup()

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read(self) -> dict[str, Any]:
        line = cast("IO[str]", self._process.stdout).readline()
        if not line:
            raise MeasureError(last_words(self._log, self._process.wait()))
        return cast("dict[str, Any]", json.loads(line))
