"""Time all contenders in one interleaved run: each is a process of its own, and one of them works at a time."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from benchmarks.peers.protocol import Worker
from edgefuse.errors import MeasureError
from edgefuse.measure.latency import BURST, SETTLE, Latencies
from edgefuse.progress import Progress
from edgefuse.runtime.pressure import System, Watch


def interleave(
    workers: Mapping[str, Worker], *, rounds: int, warmup: int, seed: int, progress: Progress
) -> tuple[Latencies, dict[str, str]]:
    """Ask every worker for a burst of timed calls per round, in a random order each round.

    The worker calls its model untimed right before, as in `edgefuse.measure.latency.single_stream`: caches are then as
    its own last call left them. What slows the machine down for a while slows all of them; whether anything did is read
    off the workers' threads and the system.

    Returns:
        The latencies of those that answered in every round, and why each of the others did not.
    """
    alive = dict(workers)
    failed: dict[str, str] = {}
    durations: dict[str, list[int]] = {name: [] for name in workers}
    rng = np.random.default_rng(seed)
    watch = Watch(System(processes=tuple(worker.process for worker in workers.values())))
    for done in range(-warmup, rounds):
        if done >= 0:
            watch.look(now=done == 0)
        for name in rng.permutation(sorted(alive)).tolist():
            try:
                taken = alive[name].time(SETTLE, BURST)
            except MeasureError as error:
                failed[name] = str(error)
                del alive[name]
                continue
            if done >= 0:
                durations[name] += taken
        progress(max(done + 1, 0), rounds, "time rounds")
    watch.look(now=True)
    return Latencies({name: np.array(durations[name], np.int64) for name in alive}, BURST).under(watch), failed
