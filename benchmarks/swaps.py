"""Is anything lost while rungs change? `python benchmarks/swaps.py BUNDLE.edgefuse [--swaps N] [--loads N] [--json]`.

Four threads predict without a pause at whatever rung is current, and hold every answer against what the bundle's rungs
answer alone. Meanwhile

* the current pipeline changes between two rungs, the old one being let go of, so that each change opens the files that
  differ and frees those of the rung before;
* the bundle is loaded at a rung, and closed, again and again.

Printed are the requests that were answered and lost, the growth of resident memory after a warm-up, descriptors and
threads; beside them, by how much memory grows when the bare runtime opens and frees the same files as often. Ends with
1 if a request was lost, memory grew by more than 2 MB (over the bare runtime's own growth), or files or threads stayed.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any, Protocol, TypeAlias
from weakref import ref

import numpy as np
import numpy.typing as npt

import edgefuse
from edgefuse.bundle.reader import Bundle, open_bundle
from edgefuse.measure.memory import current_rss_bytes
from edgefuse.measure.rungs import golden_inputs
from edgefuse.runtime.backends.backend import SessionOptions
from edgefuse.runtime.backends.choice import Backends

Array = npt.NDArray[Any]

CALLERS = 4
MAX_GROWTH_BYTES = 2_000_000
_WARMUP = 0.2
_ENDING_SECONDS = 20.0


class Source(Protocol):
    """Whatever holds the current pipeline: an `edgefuse.Live`, or a `Holder`."""

    @property
    def pipeline(self) -> edgefuse.Pipeline:
        """The current one."""


class Holder:
    """The current pipeline of one bundle."""

    def __init__(self, pipeline: edgefuse.Pipeline) -> None:
        self.pipeline = pipeline

    def swap(self, rung: str) -> None:
        """Change the rung, and wait until nobody uses the one before: what it alone had open is then freed."""
        before = ref(self.pipeline)
        self.pipeline = self.pipeline.at(rung)
        while before() is not None:
            time.sleep(0.0002)


class Callers:
    """Threads that predict with whatever pipeline is current.

    Attributes:
        answered: requests whose answer was that of a rung.
        lost: what came of the others: an error, or another answer.
    """

    def __init__(self, source: Source, inputs: edgefuse.Inputs, right: Sequence[Array]) -> None:
        self.answered, self.lost = 0, list[object]()
        self._source = source
        self._inputs, self._right, self._lock = inputs, right, threading.Lock()

    @contextmanager
    def calling(self, threads: int = CALLERS) -> Iterator[None]:
        """Let them call within the block."""
        ended = threading.Event()

        def call() -> None:
            answered, lost = 0, list[object]()
            while not ended.is_set():
                try:
                    answer = first(self._source.pipeline.infer(self._inputs))
                except edgefuse.EdgefuseError as error:
                    lost.append(error)
                    continue
                if any(np.array_equal(answer, right) for right in self._right):
                    answered += 1
                else:
                    lost.append(answer)
            with self._lock:
                self.answered += answered
                self.lost += lost

        running = [threading.Thread(target=call) for _ in range(threads)]
        for thread in running:
            thread.start()
        try:
            yield
        finally:
            ended.set()
            for thread in running:
                thread.join()


def first(outputs: Any) -> Array:
    """Return the first output of a model."""
    return np.asarray(next(iter(outputs.values())))


@dataclass(frozen=True)
class Run:
    """What was seen while something was done many times; growth is from after the warm-up to the end."""

    times: int
    seconds: float
    growth_bytes: int
    answered: int = 0
    lost: int = 0
    descriptors: int = 0
    threads: int = 0


def counted(before: tuple[int, int] = (0, 0)) -> tuple[int, int]:
    """Return by how many descriptors and threads this process has more; a thread that ended may take a moment."""
    deadline = time.monotonic() + _ENDING_SECONDS
    while True:
        now = len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))  # noqa: PTH208
        if before == (0, 0) or (now[0] <= before[0] and now[1] <= before[1]) or time.monotonic() > deadline:
            return now[0] - before[0], now[1] - before[1]
        time.sleep(0.01)


def repeated(
    action: Callable[[], object],
    times: int,
    callers: Callers | None = None,
    turns: Callable[[int], Iterable[int]] = range,
) -> Run:
    """Do something many times, after a warm-up, while others call.

    Args:
        action: is done.
        times: without the warm-up.
        callers: that call meanwhile, or None.
        turns: gives so many turns, or fewer if there is no time.
    """

    def many(count: int) -> int:
        for _ in turns(count):
            action()
        gc.collect()
        return current_rss_bytes()

    before = counted()
    with callers.calling() if callers else _alone():
        settled = many(max(1, int(_WARMUP * times)))
        began = time.perf_counter()
        growth = many(times) - settled
        seconds = time.perf_counter() - began
    left, running = counted(before)
    answered, lost = (callers.answered, len(callers.lost)) if callers else (0, 0)
    return Run(times, seconds, growth, answered, lost, left, running)


@contextmanager
def _alone() -> Iterator[None]:
    yield


Opening: TypeAlias = Callable[[], object]
"""Opens a file with the runtime alone."""


def openings(bundle: Bundle, rung: str, without: str | None = None) -> list[Opening]:
    """Return what opens the files of a rung; those alone that another one does not have, if one is named."""
    manifest, backends = bundle.manifest, Backends(bundle.manifest)
    shared = set(manifest.rung(without).candidates.values()) if without else set[str]()
    own = [manifest.candidate(id_) for id_ in manifest.rung(rung).candidates.values() if id_ not in shared]
    return [partial(backends.open, one, bundle.read(one.file), SessionOptions()) for one in own]


def bare(files: Sequence[Sequence[Opening]], times: int) -> Run:
    """Open and free files with the runtimes alone, one list of them after the other, as changes do."""
    turns = cycle(files)
    kept: list[object] = []

    def action() -> None:
        opened = [opening() for opening in next(turns)]
        kept[:] = opened  # the ones before are freed after these were opened

    return repeated(action, times)


def differing(bundle: Bundle) -> tuple[str, str]:
    """Return the default rung and the one of which the most stages are others."""
    default = bundle.manifest.rung()
    other = max(bundle.manifest.rungs, key=lambda rung: len(rung.candidates.items() - default.candidates.items()))
    if other.candidates == default.candidates:
        raise SystemExit("all rungs of this bundle are the same files: there is nothing to change")
    return default.name, other.name


def measure(path: Path, swaps: int, loads: int, cache: bool) -> dict[str, Run]:
    """Run everything on one bundle."""
    with open_bundle(path) as bundle:
        inputs = golden_inputs(bundle)
        rungs = differing(bundle)
        right = []
        for rung in rungs:
            with edgefuse.load(bundle, rung=rung) as alone:
                right.append(first(alone.infer(inputs)))
        own = [openings(bundle, rung, without) for rung, without in (rungs, rungs[::-1])]
        runs = {"bare": bare(own, swaps)}
    holder, turns = Holder(edgefuse.load(path, cache=cache)), cycle(reversed(rungs))
    runs["swaps"] = repeated(lambda: holder.swap(next(turns)), swaps, Callers(holder, inputs, right))
    holder.pipeline.close()
    with edgefuse.load(path, cache=cache) as pipeline:
        load = partial(edgefuse.load, path, cache=cache)
        runs["loads"] = repeated(lambda: load().close(), loads, Callers(Holder(pipeline), inputs, right))
    return runs


def failures(runs: dict[str, Run]) -> list[str]:
    """Return in words what must not be."""
    found = []
    for name in ("swaps", "loads"):
        run = runs[name]
        allowed = MAX_GROWTH_BYTES + max(0, runs["bare"].growth_bytes)
        if run.lost:
            found.append(f"{name}: {run.lost} requests lost")
        if not run.answered:
            found.append(f"{name}: nothing was answered")
        if run.growth_bytes > allowed:
            found.append(f"{name}: memory grew by {run.growth_bytes / 1e6:.1f} MB (expected <= {allowed / 1e6:.1f})")
        if run.descriptors or run.threads:
            found.append(f"{name}: {run.descriptors} descriptors and {run.threads} threads more than before")
    return found


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--swaps", type=int, default=10_000)
    parser.add_argument("--loads", type=int, default=1_000)
    parser.add_argument("--cache", action="store_true", help="keep the features of unchanged modalities")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    runs = measure(arguments.bundle, arguments.swaps, arguments.loads, arguments.cache)
    found = failures(runs)
    if arguments.json:
        print(json.dumps({name: asdict(run) for name, run in runs.items()} | {"failures": found}, indent=2))
    else:
        for name, run in runs.items():
            print(
                f"{name}: {run.times} in {run.seconds:.1f} s, {1e3 * run.seconds / run.times:.2f} ms each; "
                f"memory grew by {run.growth_bytes / 1e6:.2f} MB; {run.answered} requests answered, {run.lost} lost; "
                f"{run.descriptors} descriptors and {run.threads} threads more than before"
            )
        print(*(f"FAILED: {one}" for one in found), sep="\n", end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
