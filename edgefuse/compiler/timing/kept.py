"""Timings in the cache: those of a busy machine are kept with its load, until they can be taken again.

The choice of a compile is a function of recorded measurements, so a record stays as it is. One from a busy machine is
used, and said, as long as the machine is busy; when a later compile finds it quiet, it measures once more, and that
record takes the other's place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from edgefuse.compiler.timing.timer import Timer
from edgefuse.datasets.cache import Cache
from edgefuse.runtime.pressure import Pressure


class Measured(Protocol):
    """A record of timings that knows what else the machine did meanwhile."""

    @property
    def pressure(self) -> Pressure:
        """What else the machine did."""


T = TypeVar("T", bound=Measured)


class _StillBusyError(Exception):
    """Nothing better than what is kept could be measured."""


def timings(cache: Cache, kind: str, key: object, record: type[T], make: Callable[[], T], timer: Timer) -> T:
    """Return a record of timings from the cache, measuring it if it is not there.

    Args:
        cache: where it is kept.
        kind: of the entry.
        key: everything that the timings depend on but the machine's pressure.
        record: the type of the record.
        make: measures.
        timer: that `make` measures with.
    """
    fresh: list[T] = []

    def first() -> T:
        fresh.append(make())
        return fresh[0]

    def better() -> T:
        if not timer.quiet():
            raise _StillBusyError
        found = make()
        if found.pressure.busy:
            raise _StillBusyError
        return found

    kept = cache.record(kind, key, record, first)
    if fresh or not kept.pressure.busy:
        return kept
    try:
        return cache.record(kind, [key, "quiet"], record, better)
    except _StillBusyError:
        return kept
