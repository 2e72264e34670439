"""When predictions are due."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

_ROUNDING = 1e-6  # of a hop: times are sums of floats


class Due(NamedTuple):
    """A prediction that is due.

    Attributes:
        time_s: that it is for, on the time of the stream.
        since_s: when it became due, by the clock of this machine.
    """

    time_s: float
    since_s: float


class Triggers:
    """What is due, the oldest first: at every hop of a time, or each time that it is reached.

    Args:
        hop_s: between two predictions; 0: at each call of `reach`.
        backlog: predictions that wait at most; the oldest of more are skipped.

    Attributes:
        skipped: predictions, so far.
    """

    def __init__(self, hop_s: float, backlog: int) -> None:
        self.skipped = 0
        self._hop_s = hop_s
        self._backlog = backlog
        self._start_s: float | None = None
        self._hops = 0
        self._due: deque[Due] = deque()

    def __len__(self) -> int:
        return len(self._due)

    def reach(self, time_s: float, start_s: float, since_s: float) -> bool:
        """Note that a time is reached; return whether something has become due.

        Args:
            time_s: that is reached.
            start_s: from which hops are counted, the first time.
            since_s: now, by the clock of this machine.
        """
        if not self._hop_s:
            self._add(time_s, since_s)
            return True
        self._start_s = start_s if self._start_s is None else self._start_s
        hops = int((time_s - self._start_s) / self._hop_s + _ROUNDING)
        if hops <= self._hops:
            return False
        first = max(self._hops, hops - self._backlog) + 1
        self.skipped += first - 1 - self._hops
        for hop in range(first, hops + 1):
            self._add(self._start_s + hop * self._hop_s, since_s)
        self._hops = hops
        return True

    def _add(self, time_s: float, since_s: float) -> None:
        self._due.append(Due(time_s, since_s))
        if len(self._due) > self._backlog:
            self._due.popleft()
            self.skipped += 1

    def take(self) -> Due | None:
        """Return what has been due for the longest time, and forget it."""
        return self._due.popleft() if self._due else None
