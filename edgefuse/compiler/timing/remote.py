"""The timer for a device: sends the files there, and reads the times off as if they had been taken here.

Every comparison is one interleaved run in a connection of its own, so that a device may sleep between them and a
compile that goes on where it stopped connects for what is missing. Nothing but time and memory comes from the device:
accuracy is judged on the build host, and the torch reference does not run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgefuse.bundle.manifest import Machine
from edgefuse.bundle.spec import StageSpec
from edgefuse.compiler.timing.here import RUNG_TIMING, STAGE_TIMING
from edgefuse.compiler.timing.timer import Contender, DraftRung, RungTime, RungTimes, StageTime, Unit
from edgefuse.device.device import TIMEOUT_SECONDS, device_of
from edgefuse.device.session import PYTHON, DeviceSession
from edgefuse.device.tasks import (
    INPUTS,
    Describe,
    Entrant,
    Quiet,
    RungEntrant,
    RungSeries,
    Timed,
    TimeRungs,
    TimeStage,
    packed,
    packed_inputs,
)
from edgefuse.errors import DeviceError, shown
from edgefuse.measure.latency import Interleaved, Latencies
from edgefuse.runtime.backends.backend import Backend
from edgefuse.runtime.pipeline import Inputs

_LONGEST_NS = 10**15


@dataclass(frozen=True)
class Remote:
    """Times on the device at `uri`, with its Python; it may not be silent for longer than `timeout_seconds`."""

    uri: str
    python: str = PYTHON
    timeout_seconds: float = TIMEOUT_SECONDS
    unit: Unit = "ms"

    def describe(self, backends: Sequence[Backend], threads: int) -> Machine:
        """Ask the device for its description."""
        with self._session() as session:
            return session.run(
                Describe(backends=tuple(backend.name for backend in backends), threads=threads), Machine, {}
            )

    def quiet(self) -> bool:
        """Ask the device."""
        with self._session() as session:
            return session.run(Quiet(), bool, {})

    def stage(self, stage: StageSpec, contenders: Sequence[Contender], threads: int) -> Mapping[str, StageTime]:
        """Time files of one stage."""
        files: dict[str, Path | bytes] = {}
        names: dict[int, str] = {}  # of feeds, which contenders share
        entrants = []
        for number, contender in enumerate(contenders):
            feeds = names.setdefault(id(contender.feeds), f"{number}.npz")
            built, file = contender.built, f"{number}{contender.built.path.suffix}"
            files |= {file: built.read()} | ({} if feeds in files else {feeds: packed(contender.feeds)})
            entrants.append(
                Entrant(
                    name=built.id,
                    backend=contender.backend.name,
                    file=file,
                    feeds=feeds,
                    inputs=built.inputs,
                    outputs=built.outputs,
                    plan=built.plan,
                )
            )
        task = TimeStage(threads=threads, timing=STAGE_TIMING, entrants=tuple(entrants))
        with self._session() as session:
            latencies = read_latencies(session.run(task, Timed, files), [one.name for one in entrants], STAGE_TIMING)
        return {one.name: StageTime.of(latencies, one.name, entrants[0].name) for one in entrants}

    def rungs(
        self, drafts: Sequence[DraftRung], inputs: Sequence[Inputs], reference: Callable[[Inputs], object], threads: int
    ) -> RungTimes:
        """Time rungs end to end."""
        names = {bundle: f"{number}.edgefuse" for number, bundle in enumerate(dict.fromkeys(d.bundle for d in drafts))}
        files: dict[str, Path | bytes] = {INPUTS: packed_inputs(inputs)}
        files |= {name: bundle for bundle, name in names.items()}
        entrants = tuple(RungEntrant(name=d.key, bundle=names[d.bundle], rung=d.name) for d in drafts)
        task = TimeRungs(threads=threads, timing=RUNG_TIMING, entrants=entrants)
        with self._session() as session:
            found = session.run(task, RungSeries, files)
        latencies = read_latencies(found.timed, [draft.key for draft in drafts], RUNG_TIMING)
        times = {d.key: RungTime.of(latencies, d, found.peak_rss_bytes.get(d.key, 0)) for d in drafts}
        return RungTimes(None, times, latencies.pressure)

    def _session(self) -> DeviceSession:
        return DeviceSession(device_of(self.uri), self.python, self.timeout_seconds)


def read_latencies(timed: Timed, wanted: Sequence[str], timing: Interleaved) -> Latencies:
    """Return the latencies that a device measured, checked against the request.

    Args:
        timed: what the device sent.
        wanted: names of the contenders.
        timing: that was asked for.
    """
    series = timed.nanoseconds
    all_ns = [ns for clock in (series, timed.processor) for values in clock.values() for ns in values]
    if min(all_ns, default=0) < 0 or max(all_ns, default=0) > _LONGEST_NS:
        raise DeviceError(
            "the device measured impossible times",
            got=f"calls of {shown(min(all_ns))} to {shown(max(all_ns))} ns",
            expected=f"0 to {_LONGEST_NS}",
            fix="look at its clock",
        )
    runs = {len(values) for values in (*series.values(), *timed.processor.values())}
    complete = set(series) == set(wanted) and set(timed.processor) <= set(wanted)
    if not complete or len(runs) != 1 or 0 in runs or any(count % timing.burst for count in runs):
        raise DeviceError(
            "the device measured something else than was asked for",
            got=f"{len(series)} series of {sorted(runs)} calls",
            expected=f"{len(wanted)} of the same length, in rounds of {timing.burst}",
        )
    wall, processor = (
        {name: np.array(values, np.int64) for name, values in clock.items()} for clock in (series, timed.processor)
    )
    return Latencies(wall, timing.burst, processor, timed.pressure)
