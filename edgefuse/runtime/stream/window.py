"""The last steps of a series."""

from __future__ import annotations

import numpy as np

from edgefuse.runtime.backends.backend import Array


class Window:
    """A ring buffer of steps, which are counted from the time 0.

    It is twice as long as what it keeps, so that the last steps lie in one piece, and are moved once per length.

    Args:
        steps: that are kept.
        shape: of one step.
        dtype: of its values.

    Attributes:
        begin: the first step that is kept.
        end: the one after the last.
        start: the one at which the window began after the last restart.
    """

    def __init__(self, steps: int, shape: tuple[int, ...], dtype: str) -> None:
        self.begin = self.end = self.start = 0
        self._kept = steps
        self._buffer: Array = np.zeros((2 * steps, *shape), dtype)
        self._head = 0

    @property
    def size_bytes(self) -> int:
        """Of the buffer."""
        return self._buffer.nbytes

    def widen(self, steps: int) -> None:
        """Keep more steps from now on."""
        old, count = self._buffer, self.end - self.begin
        self._buffer = np.zeros((2 * steps, *old.shape[1:]), old.dtype)
        self._buffer[:count] = old[self._head - count : self._head]
        self._kept, self._head = steps, count

    def restart(self, at: int) -> None:
        """Forget everything; the next step is `at`."""
        self.begin = self.end = self.start = at
        self._head = 0

    def append(self, steps: Array) -> None:
        """Add steps, [n, ...], and forget the oldest."""
        new = steps[-self._kept :]
        if self._head + len(new) > len(self._buffer):
            kept = min(self.end - self.begin, self._kept - len(new))
            self._buffer[:kept] = self._buffer[self._head - kept : self._head]
            self._head = kept
        self._buffer[self._head : self._head + len(new)] = new
        self._head += len(new)
        self.end += len(steps)
        self.begin = max(self.begin, self.end - self._kept)

    def forget(self, before: int) -> None:
        """Forget the steps before one."""
        self.begin = min(max(self.begin, before), self.end)
        self.start = max(self.start, self.begin)

    def count(self, at: int, steps: int) -> int:
        """Return how many of the steps that end at one are there: fewer where the window began later.

        0 if there are none, or some of them were forgotten.
        """
        first = max(at - steps, self.start)
        return at - first if self.begin <= first < at <= self.end else 0

    def last(self, at: int, steps: int) -> Array:
        """Return a copy of steps that end at one and are there, see `count`: [steps, ...]."""
        ends = self._head - (self.end - at)
        return self._buffer[ends - steps : ends].copy()
