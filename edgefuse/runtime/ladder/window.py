"""The last predictions and their deadlines, in bounded memory; each sum is kept, so that asking costs nothing.

Predictions are made one after the other. So what one ran is no more than what passed since the one before: the rest of
the time it took, it waited. Deadlines are missed by the whole, and expectations are built on what it ran.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TypeAlias

_FEWEST, _MOST = 8, 4096
_OLDEST_S = 60.0
_Seen: TypeAlias = tuple[float, float, float, bool]
"""When it came, what it ran in seconds and as a share of its deadline, and whether it was late."""

_MOST_USED = 100.0
"""In deadlines: what is later is no worse, and a sum of infinities would be none."""


class Window:
    """Predictions of the last `span_s` seconds, and the last eight of a minute in any case.

    Attributes:
        count: how many there are.
        missed: how many of them were late.
    """

    def __init__(self, span_s: float) -> None:
        self._span_s = span_s
        self._last_s = -math.inf
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._seen: deque[_Seen] = deque()
        self.count = self.missed = 0
        self._used = self._late = self._ran_s = 0.0

    def add(self, now_s: float, took_s: float, deadline_s: float) -> None:
        """Add a prediction.

        Args:
            now_s: when it came.
            took_s: how long it took, waiting included.
            deadline_s: how long it might have taken; infinite if there was no deadline.
        """
        ran_s = max(min(took_s, now_s - self._last_s), 0.0)
        used = min(ran_s / deadline_s, _MOST_USED) if deadline_s > 0 else _MOST_USED
        seen = (now_s, ran_s, used, took_s > deadline_s)
        self._last_s = now_s
        self._seen.append(seen)
        self._count(seen, 1)
        while len(self._seen) > _MOST or self._is_old(now_s):
            self._count(self._seen.popleft(), -1)

    @property
    def used(self) -> float:
        """Of its deadline, what a prediction ran, on average."""
        return max(self._used, 0.0) / self.count if self.count else 0.0

    @property
    def used_of_missed(self) -> float:
        """The same of those that were late."""
        return self._late / self.missed if self.missed else 0.0

    @property
    def busy(self) -> float:
        """Of the time, the share in which a prediction was being made."""
        if self.count < 2:
            return 0.0
        after_first_s = max(self._ran_s - self._seen[0][1], 0.0)  # from the end of the first to the end of the last
        return after_first_s / self.elapsed_s if self.elapsed_s > 0 else 1.0

    @property
    def elapsed_s(self) -> float:
        """From the first of them to the last."""
        return self._seen[-1][0] - self._seen[0][0] if self._seen else 0.0

    def _is_old(self, now_s: float) -> bool:
        age_s = now_s - self._seen[0][0]
        return age_s > _OLDEST_S or (len(self._seen) > _FEWEST and age_s > self._span_s)

    def _count(self, seen: _Seen, sign: int) -> None:
        _, ran_s, used, late = seen
        self.count += sign
        self._used += sign * used
        self._ran_s += sign * ran_s
        if late:
            self.missed += sign
            self._late += sign * used
