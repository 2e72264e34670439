"""Where independent jobs run: in this process, in worker processes of this machine, or on a Ray cluster.

A job fills entries of the cache, which all workers share, and returns something small. Latency is never measured in a
job: jobs run beside each other, and a latency counts on a quiet machine only. How far it is a job tells by `report`,
wherever it runs.

- `local`: this process, or processes of this machine;
- `ray`: tasks on a Ray cluster.
"""

from __future__ import annotations

import json
import logging
import logging.handlers
import pickle
import queue
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch

from edgefuse import registry
from edgefuse.errors import CacheError, EdgefuseError, EngineError, cited
from edgefuse.progress import Pace, Progress, silent

T = TypeVar("T")
R = TypeVar("R")

_REPORT_SECONDS = 0.25
_MAX_REPORT = 300
"""Characters: their message fits into what a pipe takes whole or not at all (4096 bytes on Linux)."""


@dataclass(frozen=True)
class Settings:
    """What workers are given.

    Attributes:
        shared: the folder of the cache, which every worker must see under the same path.
        jobs: how many jobs run at the same time.
        paths: folders that workers import modules from, besides those of the installation: the recipe's.
        retries: how often a job is tried again after the worker that ran it died.
        progress: is told whenever a job is done, and what jobs report on the way.
    """

    shared: Path
    jobs: int = 1
    paths: tuple[str, ...] = ()
    retries: int = 2
    progress: Progress = silent


class Workers(AbstractContextManager["Workers"], Protocol):
    """Run jobs, in processes that live until the end of a `with` block, of which there may be several.

    Kinds of workers are registered under the entry-point group `edgefuse.engines` and created with `Settings`.
    `parallel` tells whether jobs run in other processes.
    """

    @property
    def parallel(self) -> bool: ...  # noqa: D102

    def map(self, function: Callable[[T], R], items: Sequence[T], what: str) -> list[R]:
        """Call a function with every item and return the results in the order of the items.

        The function and the items travel to workers by pickle: a function is best a frozen dataclass with `__call__`
        that carries what it needs. It may be called twice for an item, if a worker dies.

        Args:
            function: computes the result of one item.
            items: what to compute.
            what: what the jobs do, for progress and errors.

        Raises:
            EngineError: if a job outlived no worker, or a function or a result cannot travel.
            Exception: what the function raised; for several items, that of the first.
        """


def create(name: str, settings: Settings) -> Workers:
    """Return the kind of workers of that name.

    Raises:
        EngineError: if there is none, or `settings` asks for fewer jobs than one.
        MissingExtraError: if its library is not installed.
    """
    if settings.jobs < 1:
        raise EngineError("the number of jobs is out of range", got=settings.jobs, expected="at least 1")
    workers: Workers = registry.create("engines", name, settings)
    return workers


@dataclass(frozen=True)
class Tried(Generic[T, R]):
    """Calls a function and returns the error with which it refuses an item: one job that fails leaves the others be."""

    function: Callable[[T], R]

    def __call__(self, item: T) -> R | EdgefuseError:
        """Take an item; errors of the cache or of the workers concern all jobs and are raised."""
        try:
            return self.function(item)
        except (CacheError, EngineError):
            raise
        except EdgefuseError as error:
            return error


class WorkerTraceback(Exception):  # noqa: N818 - never raised by itself: it is the cause of what a worker raised
    """Where an error came from in a worker, as text."""


@dataclass(frozen=True)
class Outcome:
    """What came of a job: a value or an error, and what was logged on the way."""

    value: Any = None
    error: BaseException | None = None
    traceback: str = ""
    records: tuple[logging.LogRecord, ...] = ()

    def result(self) -> Any:
        """Log here what was logged there; return the value or raise the error."""
        for record in self.records:
            logging.getLogger(record.name).handle(record)
        if self.error is not None:
            raise self.error from WorkerTraceback(f"\n{self.traceback}")
        return self.value


_listeners: list[Progress] = [silent]
"""Who hears of the job that this process runs: the last one."""


def report(done: int, total: int, what: str) -> None:
    """Tell how far a job is: the `Progress` of all jobs. In a worker it waits for nobody, and may be lost.

    Args:
        done: pieces.
        total: pieces; 0 if it is unknown.
        what: the pieces are.
    """
    _listeners[-1](done, total, what)


@contextmanager
def heard_by(listener: Progress) -> Iterator[None]:
    """Pass on to a listener what jobs report within the block."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.pop()


class Messages:
    """A listener in a worker: makes small messages of what jobs report and sends few of them."""

    def __init__(self, send: Callable[[bytes], object]) -> None:
        self._send = send
        self._pace = Pace(_REPORT_SECONDS)

    def __call__(self, done: int, total: int, what: str) -> None:
        """Send a message if one is due."""
        if self._pace.due(done, total, what):
            self._send(json.dumps([int(done), int(total), what[:_MAX_REPORT]]).encode())


def pass_on(message: bytes, number: int, items: int, progress: Progress) -> None:
    """Tell what the message of a job says, and which job it is.

    Args:
        message: as `Messages` made it.
        number: of the job, from 0.
        items: how many jobs there are.
        progress: is told.
    """
    done, total, what = json.loads(message)
    progress(done, total, f"job {number + 1} of {items}: {what}")


def pickled(value: object, what: str) -> bytes:
    """Return what travels to a worker.

    Raises:
        EngineError: if it cannot.
    """
    try:
        return pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise EngineError(
            f"{what}: a job cannot be sent to a worker",
            got=str(error),
            expected="a model of importable classes",
            fix="define the classes and functions of the model at the top of a module, or compile with --jobs 1",
        ) from error


def become_worker(paths: Sequence[str]) -> None:
    """Make a process a worker: one thread, and the modules of `paths`."""
    torch.set_num_threads(1)
    sys.path[:0] = [path for path in paths if path not in sys.path]


@contextmanager
def in_one_thread() -> Iterator[None]:
    """Keep torch to one thread within the block, as in workers: sums of several threads round differently."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def attempt(function: bytes, item: bytes) -> bytes:
    """Run a job in a worker and return its pickled `Outcome`, whatever happens."""
    with _recorded() as records:
        try:
            call, given = _unpickled(function), _unpickled(item)
            value, error, trace = call(given), None, ""
        except Exception as raised:  # noqa: BLE001 - travels to the caller, who raises it
            value, error, trace = None, raised, traceback.format_exc()
    try:
        data = pickle.dumps(Outcome(value, error, trace, tuple(records)))
        pickle.loads(data)
    except Exception as raised:  # noqa: BLE001 - pickling calls code of whatever class the value or error is
        spoken = cited(error) if error else f"a result of type {type(value).__name__}: {cited(raised)}"
        return pickle.dumps(
            Outcome(None, EngineError("the result of a job cannot be sent from its worker", got=spoken), trace)
        )
    return data


def _unpickled(data: bytes) -> Any:
    """Return what has travelled here, if it can be made here: a class of a notebook is in no other process."""
    try:
        return pickle.loads(data)
    except (AttributeError, ImportError) as error:
        raise EngineError(
            "a job cannot be made in a worker",
            got=cited(error),
            expected="a model of classes that another process can import",
            fix="put the classes and functions of the model into a module, or compile with one job",
        ) from error


@contextmanager
def _recorded() -> Iterator[list[logging.LogRecord]]:
    """Keep what is logged within the block for the process that draws the progress."""
    records: list[logging.LogRecord] = []
    waiting: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    handler = logging.handlers.QueueHandler(waiting)
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield records
    finally:
        root.removeHandler(handler)
        while not waiting.empty():
            records.append(waiting.get())
