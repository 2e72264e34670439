"""The engine `local`: this process, or worker processes of this machine."""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from threading import Thread
from types import TracebackType
from typing import TypeVar

from edgefuse.compiler import forkserver
from edgefuse.compiler.workers import (
    Messages,
    Outcome,
    Settings,
    attempt,
    become_worker,
    heard_by,
    pass_on,
    pickled,
)
from edgefuse.errors import EngineError

logger = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")

_FAREWELL_SECONDS = 5.0


class LocalWorkers:
    """Runs jobs one by one in this process, or in `jobs` processes of one thread each.

    What they import is imported while this process takes the model apart and looks at the data.

    A script that compiles with several jobs must do so under `if __name__ == "__main__":`, as workers import it anew.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._workers: list[_Worker] = []

    def __enter__(self) -> LocalWorkers:
        if self.parallel:
            forkserver.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers:  # idle, whatever happened: `map` has ended those that were busy
            worker.dismiss(at_once=False)
        self._workers.clear()

    @property
    def parallel(self) -> bool:
        """Whether jobs run in other processes."""
        return self._settings.jobs > 1

    def map(self, function: Callable[[T], R], items: Sequence[T], what: str) -> list[R]:
        """Return what the function gives for every item; see `Workers.map`."""
        if not self.parallel:
            return list(self._here(function, items, what))
        queue = _Jobs(pickled(function, what), [pickled(item, what) for item in items])
        busy: dict[Connection, tuple[_Worker, int]] = {}
        try:
            while queue.waiting or busy:
                self._hand_out(queue, busy)
                ready = wait([end for worker, _ in busy.values() for end in (worker.connection, worker.reports)])
                for worker, number in list(busy.values()):
                    ended = worker.connection in ready
                    for message in worker.messages(everything=ended):
                        pass_on(message, number, len(items), self._settings.progress)
                    if ended:
                        del busy[worker.connection]
                        self._settle(worker, queue, number, what)
        finally:  # nobody is busy unless this was interrupted
            for worker, _ in busy.values():
                self._workers.remove(worker)
                worker.dismiss(at_once=True)
        return [queue.outcomes[number].result() for number in sorted(queue.outcomes)]

    def _here(self, function: Callable[[T], R], items: Sequence[T], what: str) -> Iterator[R]:
        for done, item in enumerate(items, 1):
            with heard_by(self._settings.progress):
                found = function(item)
            yield found
            self._settings.progress(done, len(items), what)

    def _settle(self, worker: _Worker, queue: _Jobs, number: int, what: str) -> None:
        """Take what came of a job; if its worker died instead, put it back."""
        if outcome := worker.collect():
            queue.finish(number, outcome)
        else:
            queue.deaths[number] += 1
            self._replace_dead(worker, f"{what} (job {number + 1} of {len(queue.items)})", queue.deaths[number])
            queue.waiting.insert(0, number)
        self._settings.progress(len(queue.outcomes), len(queue.items), what)

    def _hand_out(self, queue: _Jobs, busy: dict[Connection, tuple[_Worker, int]]) -> None:
        """Give jobs to workers until there are no more of either."""
        while queue.waiting and (idle := self._idle_worker(busy)):
            number = queue.waiting.pop(0)
            idle.give(queue.function, queue.items[number])
            busy[idle.connection] = (idle, number)

    def _idle_worker(self, busy: Mapping[Connection, object]) -> _Worker | None:
        """Return a worker without a job, a new one while there are fewer than allowed; None if all are busy."""
        for worker in self._workers:
            if worker.connection not in busy:
                return worker
        if len(self._workers) == self._settings.jobs:
            return None
        self._workers.append(_Worker(self._settings.paths))
        return self._workers[-1]

    def _replace_dead(self, worker: _Worker, job: str, deaths: int) -> None:
        """Let a dead worker go; give up if it was the last that its job may have."""
        self._workers.remove(worker)
        died_of = worker.dismiss(at_once=True)
        if worker.exit_code == forkserver.UNGUARDED:
            raise EngineError(
                f"{job}: its worker imported the script that compiles, and came to the compile again",
                got="a compile with several jobs that runs when the script is imported",
                fix='write `if __name__ == "__main__":` around it, or compile with one job',
            )
        if deaths > self._settings.retries:
            raise EngineError(
                f"{job}: this job crashed its worker {deaths} time{'s' * (deaths > 1)}",
                got=died_of,
                fix="compile with fewer --jobs if memory is short; see above for what the worker wrote, if anything",
            )
        logger.warning("%s: its worker died (%s) and it is tried again", job, died_of)


class _Jobs:
    """The jobs of one `map`: which of them wait, by number, what came of the others, how many workers each one cost."""

    def __init__(self, function: bytes, items: Sequence[bytes]) -> None:
        self.function = function
        self.items = items
        self.waiting = list(range(len(items)))
        self.outcomes: dict[int, Outcome] = {}
        self.deaths: Counter[int] = Counter()

    def finish(self, number: int, outcome: Outcome) -> None:
        """Note what came of a job; after an error, what comes later in the list is not begun."""
        self.outcomes[number] = outcome
        if outcome.error is not None:
            self.waiting = [other for other in self.waiting if other < number]


class _Worker:
    """A process that runs one job at a time.

    Jobs and what came of them pass through `connection`. What a job reports on the way comes through `reports`, which
    the worker never waits for: what does not fit into the pipe is lost.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        started = forkserver.CONTEXT
        self.connection, theirs = started.Pipe()
        self.reports, reporting = started.Pipe(duplex=False)
        self._function = b""
        with forkserver.one_thread():
            given = (theirs, reporting, tuple(paths), dict(os.environ))
            self._process = started.Process(target=_work, args=given, daemon=True)
            self._process.start()
        for end in (theirs, reporting):
            end.close()  # the end of a pipe tells that the process is dead only if nobody else holds it open

    def give(self, function: bytes, item: bytes) -> None:
        """Send a job, and the function if the worker does not have it yet. `collect` notices if the worker is dead."""
        fresh = function if function is not self._function else None
        self._function = function
        with suppress(OSError):
            self.connection.send((fresh, item))

    def messages(self, *, everything: bool) -> Iterator[bytes]:
        """Take what its job reported: one message, or, of a job that has ended, all that is left."""
        with suppress(EOFError, OSError):  # it died: `collect` notices
            while self.reports.poll():
                yield self.reports.recv_bytes()
                if not everything:
                    return

    def collect(self) -> Outcome | None:
        """Take what the worker has sent; None if it died instead."""
        try:
            outcome: Outcome = pickle.loads(self.connection.recv_bytes())
        except (EOFError, OSError):
            return None
        return outcome

    def dismiss(self, *, at_once: bool) -> str:
        """End the process, at once or after its job, and tell how it ended."""
        self.connection.close()
        self.reports.close()
        if not at_once:
            self._process.join(_FAREWELL_SECONDS)
        if at_once or self._process.exitcode is None:
            self._process.kill()
        self._process.join()
        return _spelled_exit(self.exit_code)

    @property
    def exit_code(self) -> int:
        """How the process ended: a signal is negative."""
        return self._process.exitcode or 0


def _work(connection: Connection, reports: Connection, paths: Sequence[str], environment: Mapping[str, str]) -> None:
    """Run jobs until nobody sends any."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that draws the progress hears Ctrl-C for all
    os.environ.clear()  # it was forked from a process that may have started long ago
    os.environ.update(environment)
    Thread(target=_follow_parent, daemon=True).start()
    become_worker(paths)
    os.set_blocking(reports.fileno(), False)

    def send(message: bytes) -> None:
        with suppress(OSError):  # the pipe is full, or nobody reads it any more
            reports.send_bytes(message)

    function = b""
    while True:
        try:
            fresh, item = connection.recv()
            function = fresh or function
            with heard_by(Messages(send)):
                outcome = attempt(function, item)
            connection.send_bytes(outcome)
        except (EOFError, OSError):
            return


def _follow_parent() -> None:
    """End this process when the one that started it is gone: killed, it could not say so, and a job takes minutes."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _spelled_exit(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    hint = ", which is what a system short of memory sends" if -code == signal.SIGKILL else ""
    return f"the signal {signal.Signals(-code).name}{hint}"
