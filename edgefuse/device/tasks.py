"""The tasks of a device. A task travels as JSON, its files beside it; so does its result."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import msgspec
import numpy as np

from edgefuse import registry
from edgefuse.bundle.manifest import Binding, BuildPlan, Machine
from edgefuse.bundle.reader import open_bundle
from edgefuse.bundle.spec import Record
from edgefuse.measure import benchmark
from edgefuse.measure.benchmark import Benchmark
from edgefuse.measure.latency import Interleaved, Latencies, in_turn
from edgefuse.measure.rungs import cold_start
from edgefuse.progress import Progress
from edgefuse.runtime import pressure, signals
from edgefuse.runtime.backends.backend import Array, Backend, SessionOptions, versions_of
from edgefuse.runtime.pipeline import Inputs, load
from edgefuse.runtime.pressure import Pressure
from edgefuse.runtime.processor import checked_threads

Feeds: TypeAlias = Mapping[str, Array]
Natural: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=1 << 62)]
Series: TypeAlias = dict[str, list[Natural]]
"""The nanoseconds of every timed call, by name."""

INPUTS = "inputs.npz"
BUNDLE = "bundle"
AGAINST = "against"
_PRESENT = "/present"


class Describe(Record, frozen=True, kw_only=True, tag="describe"):
    """Describe the device, with the versions of runtimes."""

    backends: tuple[str, ...]
    threads: int

    def __call__(self, files: Path, progress: Progress) -> Machine:
        """Return the description."""
        threads = checked_threads(self.threads)
        return signals.describe(threads, versions_of(map(_backend, self.backends)))


class Quiet(Record, frozen=True, kw_only=True, tag="quiet"):
    """Try for a moment whether nothing else keeps the device busy."""

    def __call__(self, files: Path, progress: Progress) -> bool:
        """Return whether that is so."""
        return pressure.quiet()


class Bench(Record, frozen=True, kw_only=True, tag="bench"):
    """Measure a bundle; its files are `BUNDLE`, `INPUTS` (one item) and perhaps `AGAINST`.

    Attributes:
        origin: of the inputs.
        against: what the other bundle is called; None if there is none.
    """

    settings: benchmark.Settings
    origin: str
    against: str | None

    def __call__(self, files: Path, progress: Progress) -> Benchmark:
        """Return what was found."""
        (inputs,) = unpacked_inputs(files / INPUTS)
        with ExitStack() as stack:
            bundle, reference = stack.enter_context(open_bundle(files / BUNDLE)), None
            if self.against is not None:
                other = stack.enter_context(open_bundle(files / AGAINST))
                reference = benchmark.against(other, self.against, inputs, self.settings.threads)
            return self.settings(bundle, inputs, self.origin, progress, reference)


class Timed(Record, frozen=True, kw_only=True):
    """The latencies of an interleaved run, as they travel.

    Attributes:
        processor: the same in processor time, of those for which that is a clock.
        pressure: what else the device did meanwhile.
    """

    nanoseconds: Series
    processor: Series
    pressure: Pressure

    @classmethod
    def of(cls, latencies: Latencies) -> Timed:
        """Take it from what was measured."""
        wall, processor = (
            {name: values.tolist() for name, values in series.items()}
            for series in (latencies.nanoseconds, latencies.processor)
        )
        return cls(nanoseconds=wall, processor=processor, pressure=latencies.pressure)


class Entrant(Record, frozen=True, kw_only=True):
    """A stage file to be timed: the names of it and of its feeds among the task's files, and how to call it."""

    name: str
    backend: str
    file: str
    feeds: str
    inputs: tuple[Binding, ...]
    outputs: tuple[Binding, ...]
    plan: BuildPlan | None


class TimeStage(Record, frozen=True, kw_only=True, tag="stage"):
    """Time files of one stage in one interleaved run."""

    threads: int
    timing: Interleaved
    entrants: tuple[Entrant, ...]

    def __call__(self, files: Path, progress: Progress) -> Timed:
        """Return the series of every entrant."""
        calls: dict[str, Callable[[], object]] = {}
        for one in self.entrants:
            options = SessionOptions(threads=self.threads, plan=one.plan)
            session = _backend(one.backend).open((files / one.file).read_bytes(), one.inputs, one.outputs, options)
            calls[one.name] = in_turn(session.run, unpacked(files / one.feeds))
        return Timed.of(self.timing(calls, progress))


class RungEntrant(Record, frozen=True, kw_only=True):
    """A rung to be timed, and the name of its bundle among the task's files."""

    name: str
    bundle: str
    rung: str


class RungSeries(Record, frozen=True, kw_only=True):
    """The series of every rung, and the peak memory of a process that runs it."""

    timed: Timed
    peak_rss_bytes: dict[str, Natural]


class TimeRungs(Record, frozen=True, kw_only=True, tag="rungs"):
    """Time rungs end to end in one interleaved run; the file `INPUTS` has the items."""

    threads: int
    timing: Interleaved
    entrants: tuple[RungEntrant, ...]

    def __call__(self, files: Path, progress: Progress) -> RungSeries:
        """Return the series and the memory of every entrant."""
        inputs = unpacked_inputs(files / INPUTS)
        with ExitStack() as stack:
            calls: dict[str, Callable[[], object]] = {}
            for one in self.entrants:
                pipeline = load(files / one.bundle, rung=one.rung, threads=self.threads, cache=False)
                calls[one.name] = in_turn(stack.enter_context(pipeline).infer, inputs)
            latencies = self.timing(calls, progress)
        peaks = {
            one.name: cold_start(
                files / one.bundle, inputs[0], rung=one.rung, threads=self.threads, backend=None
            ).peak_rss_bytes
            for one in self.entrants
        }
        return RungSeries(timed=Timed.of(latencies), peak_rss_bytes=peaks)


Task: TypeAlias = Describe | Quiet | Bench | TimeStage | TimeRungs


def _backend(name: str) -> Backend:
    found: Backend = registry.create("backends", name)
    return found


def packed(items: Sequence[Feeds]) -> bytes:
    """Return feeds as an npz whose keys are `<number>/<port>`."""
    arrays: dict[str, Any] = {f"{number}/{port}": a for number, feeds in enumerate(items) for port, a in feeds.items()}
    target = io.BytesIO()
    np.savez(target, **arrays)
    return target.getvalue()


def unpacked(path: Path) -> list[dict[str, Array]]:
    """Read what `packed` made."""
    found: dict[int, dict[str, Array]] = {}
    with np.load(path, allow_pickle=False) as archive:
        for key in archive.files:
            number, _, port = key.partition("/")
            found.setdefault(int(number), {})[port] = archive[key]
    return [found[number] for number in sorted(found)]


def packed_inputs(items: Sequence[Inputs]) -> bytes:
    """Return inputs of a pipeline as an npz."""
    return packed([{**item.values, _PRESENT: np.array(item.present)} for item in items])


def unpacked_inputs(path: Path) -> list[Inputs]:
    """Read what `packed_inputs` made."""
    return [Inputs(present=tuple(feeds.pop(_PRESENT).tolist()), values=feeds) for feeds in unpacked(path)]
