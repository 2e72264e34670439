"""Turns: who waits for the runtime is served in the order of asking."""

from __future__ import annotations

from collections import deque
from threading import Lock
from types import TracebackType


class Turns:
    """A lock that is handed to whoever has waited longest.

    Python's own locks are not fair: a thread that asks again at once may have it again and again. With this one,
    callers that ask all the time get the same number of turns each. Not reentrant.
    """

    __slots__ = ("_guard", "_taken", "_waiting")

    def __init__(self) -> None:
        self._guard = Lock()
        self._taken = False
        self._waiting: deque[Lock] = deque()

    def __enter__(self) -> None:
        with self._guard:
            if not self._taken:
                self._taken = True
                return
            ticket = Lock()
            ticket.acquire()
            self._waiting.append(ticket)
        try:
            ticket.acquire()
        except BaseException:  # such as KeyboardInterrupt: who gives up must not be handed a turn
            with self._guard:
                waits = ticket in self._waiting
                if waits:
                    self._waiting.remove(ticket)
            if not waits:
                self._pass_on()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pass_on()

    def _pass_on(self) -> None:
        with self._guard:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._taken = False
