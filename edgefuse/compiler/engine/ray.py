"""The engine `ray`: tasks on a Ray cluster."""

from __future__ import annotations

import logging
import os
import pickle
import secrets
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, redirect_stdout
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import ray
from ray.exceptions import RayError

from edgefuse.compiler.engine import Crew, Outcome, attempt, enlist, pickled
from edgefuse.errors import EngineError

T = TypeVar("T")
R = TypeVar("R")


class RayEngine:
    """Runs jobs as Ray tasks of one CPU each, on the cluster that `RAY_ADDRESS` names or on one started here.

    A cluster started here has `jobs` CPUs and ends with the `with` block; on another one Ray decides how many jobs run
    at the same time. All nodes need edgefuse, the model's modules and the cache folder under the same paths.
    """

    parallel = True

    def __init__(self, crew: Crew) -> None:
        self._crew = crew
        self._probe = crew.shared / f"probe-{secrets.token_hex(8)}"
        self._open = ExitStack()

    def __enter__(self) -> RayEngine:
        with ExitStack() as opening:
            # Ray tells of dead workers on stdout, which is for results.
            opening.enter_context(redirect_stdout(sys.stderr))
            self._probe.parent.mkdir(parents=True, exist_ok=True)
            self._probe.touch()
            opening.callback(self._probe.unlink, missing_ok=True)
            self._connect()
            opening.callback(ray.shutdown)
            self._open = opening.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def _connect(self) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing of ours phones home
        address = os.environ.get("RAY_ADDRESS") or "local"
        try:
            ray.init(
                address,
                num_cpus=self._crew.jobs if address == "local" else None,
                include_dashboard=False if address == "local" else None,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except (RayError, ConnectionError, RuntimeError, ValueError) as error:
            raise EngineError(
                f"the Ray cluster '{address}' cannot be used",
                got=" ".join(str(error).split()),
                fix="correct RAY_ADDRESS, or leave it out to start a cluster on this machine",
            ) from error

    def map(self, function: Callable[[T], R], items: Sequence[T], what: str) -> list[R]:
        """Return what the function gives for every item; see `Engine.map`."""
        task = ray.remote(max_retries=self._crew.retries, num_cpus=1)(run)
        shared = ray.put(pickled(function, what))  # one copy per node
        numbers = {
            task.remote(shared, pickled(item, what), self._crew.paths, self._probe): number
            for number, item in enumerate(items)
        }
        outcomes: dict[int, Outcome] = {}
        waiting = list(numbers)
        while waiting:
            (done,), waiting = ray.wait(waiting)
            number = numbers[done]
            outcomes[number] = _outcome(done, f"{what} (job {number + 1} of {len(items)})", self._crew.retries)
            if outcomes[number].error is not None:  # what comes later in the list is of no use any more
                for later in (reference for reference in waiting if numbers[reference] > number):
                    ray.cancel(later)
                waiting = [reference for reference in waiting if numbers[reference] < number]
            self._crew.progress(len(outcomes), len(items), what)
        return [outcomes[number].result() for number in sorted(outcomes)]


def run(function: bytes, item: bytes, paths: Sequence[str], probe: Path) -> bytes:
    """Run a job as a Ray task; see `attempt`."""
    if not probe.is_file():
        error = EngineError(
            f"the worker on {socket.gethostname()} does not see the cache folder {probe.parent}",
            expected="a folder that all nodes of the Ray cluster share, under the same path",
            fix="give one with --cache",
        )
        return pickle.dumps(Outcome(error=error))
    enlist(paths)
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
            f"{job}: {retries + 1} workers died of it, or could not start",
            got=" ".join(str(error).split())[:300].rstrip("."),
            fix="look into Ray's logs; give workers more memory",
        ) from error
    return outcome
