"""What came out of order, put in order."""

from __future__ import annotations

from bisect import insort_right
from collections.abc import Iterator
from dataclasses import dataclass

from edgefuse.runtime.backends.backend import Array


@dataclass(slots=True)
class Chunk:
    """A chunk of a series: its first step and the one after its last."""

    start: int
    end: int
    steps: Array


class Ordering:
    """Hands chunks on in the order of their steps; what comes after a gap waits for what is missing.

    Args:
        horizon: steps that it waits at most: until a chunk has come that ends so much later.
        jitter: steps by which a chunk may miss the end of the one before without being a gap or an overlap, if that is
            no more than half of it.
        max_items: chunks that wait at most; then the gap is given up.
        max_bytes: of them.

    Attributes:
        next: the step after the last one that was handed on; None before the first.
        size_bytes: of what waits.
    """

    def __init__(self, horizon: int, jitter: int, max_items: int, max_bytes: int) -> None:
        self.next: int | None = None
        self.size_bytes = 0
        self._horizon, self._jitter = horizon, jitter
        self._max_items, self._max_bytes = max_items, max_bytes
        self._waiting: list[Chunk] = []
        self._newest = 0

    def add(self, place: int, steps: Array) -> bool:
        """Take a chunk; return whether it is not late.

        Args:
            place: of its first step, by its time.
            steps: [n, ...]; copied if it has to wait.
        """
        chunk = Chunk(place, place + len(steps), steps)
        self._straighten(chunk)
        if self.next is not None and chunk.end <= self.next:
            return False
        if chunk.start != self.next and self._horizon:
            chunk.steps = steps.copy()
        insort_right(self._waiting, chunk, key=lambda one: one.start)
        self.size_bytes += steps.nbytes
        self._newest = chunk.end if self.next is None else max(self._newest, chunk.end)
        return True

    def follow(self, place: int, steps: Array, timed: bool) -> Chunk | None:
        """Hand a chunk on at once if nothing waits, and it follows on what was handed on; None if not: `add` it then.

        Args:
            place: of its first step, by its time.
            steps: [n, ...].
            timed: whether that is the time of its data, and not of its arrival, which may be late by the horizon.
        """
        start = self.next
        if self._waiting or start is None:
            return None
        count = len(steps)
        if abs(place - start) > (min(self._jitter, count // 2) if timed else self._horizon):
            return None
        self.next = start + count
        self._newest = max(self._newest, self.next)
        return Chunk(start, self.next, steps)

    @property
    def waits(self) -> bool:
        """Whether something waits."""
        return bool(self._waiting)

    def ready(self, now: int | None = None) -> Iterator[tuple[int, Chunk]]:
        """Yield (steps missing before it, chunk) of what need not wait any more; overlaps are cut.

        Args:
            now: the step at which the time of the stream is; the end of the newest chunk if None.
        """
        newest = self._newest if now is None else max(self._newest, now)
        while self._waiting:
            chunk = self._waiting[0]
            self._straighten(chunk)
            gap = 0 if self.next is None else max(0, chunk.start - self.next)
            full = len(self._waiting) > self._max_items or self.size_bytes > self._max_bytes
            if gap and newest - chunk.end < self._horizon and not full:
                return
            del self._waiting[0]
            self.size_bytes -= chunk.steps.nbytes
            if self.next is not None and chunk.start < self.next:
                chunk.steps = chunk.steps[self.next - chunk.start :]
                chunk.start = min(self.next, chunk.end)
            self.next = chunk.end if self.next is None else max(self.next, chunk.end)
            yield gap, chunk

    def _straighten(self, chunk: Chunk) -> None:
        """Put a chunk right behind what was handed on if it misses that by no more than jitter, or half of itself."""
        if self.next is not None and abs(chunk.start - self.next) <= min(self._jitter, len(chunk.steps) // 2):
            chunk.start, chunk.end = self.next, self.next + len(chunk.steps)

    def restart(self) -> None:
        """Begin anew, wherever the next chunk is; what waited must have been taken."""
        self.next = None
        self._newest = 0

    def drain(self) -> Iterator[tuple[int, Chunk]]:
        """Yield everything that waits."""
        return self.ready(self._newest + self._horizon)
