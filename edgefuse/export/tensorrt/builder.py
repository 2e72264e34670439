"""Does TensorRT take a graph? Its own parser and builder are asked, ahead of time and without a GPU.

TensorRT for RTX builds engines for architectures that it is told. Its front end (parser, type checks, shapes) is that
of TensorRT 10; its code generator is not a Jetson's, which is of an architecture (SM 8.7) that it does not build for.

The libraries are native, so they run in a process of their own with a time limit: a crash is a refusal with a reason.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

import msgspec

from edgefuse.bundle.manifest import BuildPlan
from edgefuse.export.target import Lowered
from edgefuse.export.tensorrt.builder_process import MARK, Answer, Edition, Graph, Request
from edgefuse.typed_json import decode

logger = logging.getLogger(__name__)

ARCHITECTURES: Final = ("SM86", "SM89", "SM120")
"""Ampere (the generation of Orin, whose SM 8.7 is not among those that can be built for), Ada and Blackwell."""

TOOL: Final = "tensorrt-rtx"

EXPLAINED: Final = (
    *("Converting conv activation scales to fp32", "Converting conv weight scales to fp32"),
    *("Unused Input: ", "[RemoveDeadLayers] Input Tensor "),
)
"""Parts of the warnings that nothing is to be done about; decision 087 says why."""

_LIMIT_SECONDS = 600.0
_COMMAND = "import sys; sys.path[:] = sys.argv[1].split({sep!r}); from {module} import main; main()"
_WARNING = "WARNING"


@dataclass(frozen=True)
class Building:
    """What became of a graph.

    Attributes:
        engines_bytes: the size of the engine by architecture, as far as they were built.
        warnings: each once.
        refusal: why TensorRT does not take it; empty if it does.
        seconds: for all architectures.
    """

    engines_bytes: dict[str, int]
    warnings: tuple[str, ...]
    refusal: str
    seconds: float

    @property
    def unexplained(self) -> tuple[str, ...]:
        """The warnings that wait for somebody to look at them."""
        return tuple(text for text in self.warnings if not any(part in text for part in EXPLAINED))


@cache
def installed() -> str:
    """Return the version of TensorRT for RTX; empty where it is not installed or cannot be loaded."""
    edition = _Run.of(Request(architectures=()), (), _LIMIT_SECONDS).edition
    if not edition.version:
        logger.info("TensorRT's builder is not asked: %s", edition.reason)
    return edition.version


def versions() -> dict[str, str]:
    """Return the version of the builder that has a say in what is refused, if there is one."""
    return {TOOL: installed()} if installed() else {}


def refusal(lowered: Lowered) -> str:
    """Return why TensorRT's builder does not take a graph; empty if it does, or is not installed.

    A warning that nobody has explained yet is logged.
    """
    if not installed():
        return ""
    (built,) = build((lowered,))
    for text in built.unexplained:
        logger.warning("TensorRT's builder says: %s", text)
    return built.refusal


def build(
    graphs: Sequence[Lowered],
    architectures: tuple[str, ...] = ARCHITECTURES,
    limit_seconds: float = _LIMIT_SECONDS,
) -> tuple[Building, ...]:
    """Build graphs; a crash, and a graph that takes too long, cost no other graph its answer.

    Args:
        graphs: with their plans.
        architectures: as TensorRT for RTX names them.
        limit_seconds: for each graph, the others waiting.
    """
    made: list[Building] = []
    while len(made) < len(graphs):
        made.extend(_attempt(graphs[len(made) :], architectures, limit_seconds))
    return tuple(made)


def _attempt(graphs: Sequence[Lowered], architectures: tuple[str, ...], limit_seconds: float) -> Iterator[Building]:
    """Yield what became of the graphs up to the first that ended the process, this one included."""
    described = tuple(Graph(inputs=g.inputs, plan=g.plan or BuildPlan(), size_bytes=len(g.data)) for g in graphs)
    request = Request(architectures=architectures, graphs=described)
    run = _Run.of(request, [graph.data for graph in graphs], limit_seconds * len(graphs))
    for index, answer in enumerate(run.answers):
        sizes = dict(zip(architectures, answer.engines_bytes, strict=False))
        yield Building(sizes, (*answer.warnings, *run.printed(index)), answer.refusal, answer.seconds)
    if len(run.answers) < len(graphs):
        last = len(run.answers)
        yield Building({}, run.printed(last), run.death(last), 0.0)


@dataclass(frozen=True)
class _Run:
    """A process that has ended.

    Attributes:
        code: that it ended with; None if it ran into the limit.
    """

    code: int | None
    limit_seconds: float
    edition: Edition
    answers: tuple[Answer, ...]
    stderr: str

    @classmethod
    def of(cls, request: Request, files: Sequence[bytes], limit_seconds: float) -> _Run:
        """Run a process."""
        program = _COMMAND.format(sep=os.pathsep, module=Answer.__module__)
        command = [sys.executable, "-c", program, os.pathsep.join(sys.path)]
        given = b"".join((msgspec.json.encode(request), b"\n", *files))
        code: int | None = None
        try:
            done = subprocess.run(command, input=given, capture_output=True, timeout=limit_seconds, check=False)
            code, stdout, stderr = done.returncode, done.stdout, done.stderr
        except subprocess.TimeoutExpired as error:
            stdout, stderr = error.stdout or b"", error.stderr or b""
        lines = stdout.split(b"\n")[:-1]  # behind the last line break stands what was not written whole
        said = stderr.decode("utf-8", "replace")
        edition = decode(lines[0], Edition) if lines else Edition(reason=_last_line(said))
        return cls(code, limit_seconds, edition, tuple(decode(line, Answer) for line in lines[1:]), said)

    def printed(self, index: int) -> tuple[str, ...]:
        """Return the warnings that the native libraries printed over a graph, each once."""
        lines = self._said(index).splitlines()
        return tuple(dict.fromkeys(line.strip() for line in lines if line.startswith(_WARNING)))

    def death(self, index: int) -> str:
        """Say how the process ended over a graph."""
        if self.code is None:
            return f"TensorRT's builder did not end within {self.limit_seconds:g} s"
        how = f"signal {signal.Signals(-self.code).name}" if self.code < 0 else f"code {self.code}"
        return f"TensorRT's builder ended with {how}: {_last_line(self._said(index))}"

    def _said(self, index: int) -> str:
        behind = self.stderr.partition(f"{MARK}{index}\n")[2]
        return behind.partition(MARK)[0]


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no message"])[-1]
