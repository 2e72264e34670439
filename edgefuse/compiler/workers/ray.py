"""The engine `ray`: tasks on a Ray cluster."""

from __future__ import annotations

import os
import pickle
import secrets
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, redirect_stdout, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias, TypeVar

import ray
from ray.exceptions import RayError

from edgefuse.cluster import LOCAL, connected
from edgefuse.compiler.workers import Messages, Outcome, Settings, attempt, become_worker, heard_by, pass_on, pickled
from edgefuse.errors import EngineError, cited

T = TypeVar("T")
R = TypeVar("R")

_Job: TypeAlias = tuple[int, int]
"""Which `map` it belongs to, and its number there."""

_LISTEN_SECONDS = 0.5
_MAX_WAITING_REPORTS = 100


class RayWorkers:
    """Runs jobs as Ray tasks of one CPU each, on the cluster that `RAY_ADDRESS` names or on one started here.

    A cluster started here has `jobs` CPUs and ends with the `with` block; on another one Ray decides how many jobs run
    at the same time. All nodes need edgefuse, the model's modules and the cache folder under the same paths.
    """

    parallel = True

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._probe = settings.shared / f"probe-{secrets.token_hex(8)}"
        self._open = ExitStack()
        self._board: Any = None
        self._call = 0
        self._home: str | None = None

    def __enter__(self) -> RayWorkers:
        with ExitStack() as opening:
            # Ray tells of dead workers on stdout, which is for results.
            opening.enter_context(redirect_stdout(sys.stderr))
            self._probe.parent.mkdir(parents=True, exist_ok=True)
            self._probe.touch()
            opening.callback(self._probe.unlink, missing_ok=True)
            if opening.enter_context(connected(self._settings.jobs)) == LOCAL:
                self._home = os.environ.get("HOME")
            self._board = _board()
            self._open = opening.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def map(self, function: Callable[[T], R], items: Sequence[T], what: str) -> list[R]:
        """Return what the function gives for every item; see `Workers.map`."""
        task = ray.remote(max_retries=self._settings.retries, num_cpus=1)(run)
        shared = ray.put(pickled(function, what))  # one copy per node
        self._call += 1
        standing = self._settings.paths, self._probe, self._home
        numbers = {
            task.remote(shared, pickled(item, what), *standing, (self._call, number), self._board): number
            for number, item in enumerate(items)
        }
        outcomes: dict[int, Outcome] = {}
        waiting = list(numbers)
        while waiting:
            finished, waiting = ray.wait(waiting, timeout=_LISTEN_SECONDS)
            self._listen(len(items))
            for done in finished:
                number = numbers[done]
                outcomes[number] = _outcome(done, f"{what} (job {number + 1} of {len(items)})", self._settings.retries)
                if outcomes[number].error is not None:  # what comes later in the list is of no use any more
                    for later in (reference for reference in waiting if numbers[reference] > number):
                        ray.cancel(later)
                    waiting = [reference for reference in waiting if numbers[reference] < number]
                self._settings.progress(len(outcomes), len(items), what)
        return [outcomes[number].result() for number in sorted(outcomes)]

    def _listen(self, items: int) -> None:
        """Pass on what jobs have written to the board since the last time."""
        try:
            found: dict[_Job, bytes] = ray.get(self._board.take.remote(), timeout=_LISTEN_SECONDS)
        except RayError:  # it is busy or dead: there is no news then, and jobs do not depend on it
            return
        for (call, number), message in sorted(found.items()):
            if call == self._call:
                pass_on(message, number, items, self._settings.progress)


def _board() -> Any:
    """Start a board: an actor, which takes no CPU, that keeps the latest report of each job until it is fetched."""

    class Board:  # in here, so that it travels by value: by name, its process would import torch with this module
        def __init__(self) -> None:
            self.latest: dict[_Job, bytes] = {}

        def put(self, job: _Job, message: bytes) -> None:
            self.latest[job] = message

        def take(self) -> dict[_Job, bytes]:
            found, self.latest = self.latest, {}
            return found

    return ray.remote(num_cpus=0)(Board).options(max_pending_calls=_MAX_WAITING_REPORTS).remote()


def run(
    function: bytes,
    item: bytes,
    paths: Sequence[str],
    probe: Path,
    home: str | None = None,
    job: _Job = (0, 0),
    board: Any = None,
) -> bytes:
    """Run a job as a Ray task; see `attempt`. What it reports is written to the board.

    A worker of a cluster that was started here has that cluster's home until it is told that of the user.

    Args:
        function: pickled.
        item: pickled.
        paths: folders to import from.
        probe: a file in the cache folder, which every node must see.
        home: the user's home folder; None for that of the worker.
        job: the number of the call of `map`, and of the item.
        board: an actor that keeps reports; None for none.
    """
    if home is not None:
        os.environ["HOME"] = home
    if not probe.is_file():
        error = EngineError(
            f"the worker on {socket.gethostname()} does not see the cache folder {probe.parent}",
            expected="a folder that all nodes of the Ray cluster share, under the same path",
            fix="give one with --cache",
        )
        return pickle.dumps(Outcome(error=error))
    become_worker(paths)

    def send(message: bytes) -> None:
        with suppress(RayError):  # too many wait already, or the board is gone
            board.put.remote(job, message)

    with heard_by(Messages(send)):
        return attempt(function, item)


def _outcome(reference: ray.ObjectRef[bytes], job: str, retries: int) -> Outcome:
    """Fetch what came of a job.

    Raises:
        EngineError: if every worker that tried died.
    """
    try:
        outcome: Outcome = pickle.loads(ray.get(reference))
    except RayError as error:
        raise EngineError(
            f"{job}: this job crashed its worker {retries + 1} time{'s' * (retries > 0)}, or no worker could start",
            got=cited(error, 300),
            fix="give workers more memory, or take fewer --jobs; a cluster of your own has logs of them",
        ) from error
    return outcome
