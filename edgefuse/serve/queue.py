"""The requests that wait in front of inference: a bounded number of them, whatever service they came by.

A service that lets requests pile up answers all of them too late. So a request is admitted at once or refused at once,
with the time after which it is worth another try; what was admitted is answered.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from math import ceil
from typing import Any, NamedTuple, Protocol, TypeVar

from edgefuse.errors import EdgefuseError, InputError
from edgefuse.runtime.pipeline import Pipeline

T = TypeVar("T")
_RECENT = 64
_GUESSED_S = 0.1
"""What a call takes as long as none has ended."""


class Source(Protocol):
    """What has the pipeline to call now, such as `edgefuse.Live`."""

    @property
    def pipeline(self) -> Pipeline:
        """The pipeline to call now."""
        ...


class Full(EdgefuseError):  # noqa: N818 - a state, as in the standard library's queue
    """As many requests wait or run as may.

    Attributes:
        retry_after_s: in how many seconds those that wait will be answered, at the pace of the latest calls.
    """

    def __init__(self, depth: int, retry_after_s: float) -> None:
        super().__init__(
            "the queue is full",
            got=f"{depth} requests that wait or run",
            fix=f"try again in {max(1, ceil(retry_after_s))} s",
        )
        self.retry_after_s = retry_after_s


class Expired(EdgefuseError):  # noqa: N818 - a state, as in the standard library's queue
    """A request waited for longer than its deadline, and was not begun."""


class Draining(EdgefuseError):  # noqa: N818 - a state, as in the standard library's queue
    """The service ends, and takes no more requests."""


class Pace:
    """How long the latest calls took."""

    def __init__(self) -> None:
        self._recent_s: deque[float] = deque(maxlen=_RECENT)

    def add(self, seconds: float) -> None:
        """Count a call."""
        self._recent_s.append(seconds)

    @property
    def p50_s(self) -> float:
        """The median, in seconds."""
        return statistics.median(self._recent_s) if self._recent_s else _GUESSED_S


class Place:
    """A place that is held for a request while it is read, so that no other is read for the same one."""

    def __init__(self, queue: Queue) -> None:
        self._queue, self.free = queue, False

    def submit(self, call: Callable[[Pipeline], T]) -> Future[T]:
        """Take the request, once; see `Queue.submit`.

        Raises:
            Draining: the queue has ended to take requests.
        """
        self.free = True
        return self._queue._take(call)


class _Request(NamedTuple):
    call: Callable[[Pipeline], Any]
    future: Future[Any]
    admitted_s: float


class Queue:
    """Calls a pipeline for all services of a process, in the order of the requests.

    Args:
        source: is asked for its pipeline at every call, so that another bundle or rung can take its place.
        depth: requests that may wait or run at a time.
        workers: threads that call; inference runs one call after another in any case, preprocessing beside it.
        deadline_s: a request that waited for longer is not begun.

    Attributes:
        admitted: requests that were taken, since the beginning.
        refused: requests that were not, since there were too many, or this ends.
        expired: requests that were taken and waited for too long.

    Raises:
        InputError: a number is below 1, or the deadline not above 0, or longer than the system can wait.
    """

    def __init__(self, source: Source, depth: int, workers: int = 1, deadline_s: float | None = None) -> None:
        for name, number in (("depth", depth), ("workers", workers)):
            if number < 1:
                raise InputError(f"a queue's {name} is too small", got=number, expected="1 or more")
        if deadline_s is not None and not 0 < deadline_s <= threading.TIMEOUT_MAX:
            longest = f"above 0 s, at most {threading.TIMEOUT_MAX:.0f} s"
            raise InputError("a queue's deadline is out of range", got=f"{deadline_s} s", expected=longest)
        self.depth = depth
        self.admitted = self.refused = self.expired = 0
        self._source, self._deadline_s = source, deadline_s
        self._waiting: deque[_Request] = deque()
        self._held = self._running = self._unanswered = 0  # the last one counts a call until its caller has the answer
        self._draining = self._ended = False
        self._changed = threading.Condition()
        self._pace = Pace()
        names = (f"edgefuse-serve-{number}" for number in range(workers))
        self._workers = [threading.Thread(target=self._work, name=name, daemon=True) for name in names]
        for worker in self._workers:
            worker.start()

    @property
    def waiting(self) -> int:
        """Requests that were taken and not begun."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Requests that are being answered."""
        return self._running

    @property
    def draining(self) -> bool:
        """Whether this ends, and takes no more."""
        return self._draining

    @property
    def p50_s(self) -> float:
        """The median time that the latest calls took."""
        with self._changed:
            return self._pace.p50_s

    def check(self) -> None:
        """Refuse a request that `submit` would refuse now, before any work is done for it.

        Raises:
            Full: there are as many as may be.
            Draining: this ends.
        """
        with self._changed:
            self._check()

    def submit(self, call: Callable[[Pipeline], T]) -> Future[T]:
        """Take a request or refuse it, at once.

        Args:
            call: is called with the pipeline by a thread of this. The future that is returned has its answer or error;
                when that is cancelled before the call begins, it never does.

        Raises:
            Full: there are as many as may be.
            Draining: this ends.
        """
        with self.place() as place:
            return place.submit(call)

    @contextmanager
    def place(self) -> Iterator[Place]:
        """Hold a place until the request is submitted to it, or the block ends.

        Raises:
            Full: there are as many as may be.
            Draining: this ends.
        """
        with self._changed:
            self._check()
            self._held += 1
        place = Place(self)
        try:
            yield place
        finally:
            if not place.free:
                with self._changed:
                    self._held -= 1

    def drain(self, timeout_s: float) -> bool:
        """Take no more requests, and wait for the answers of those that were taken.

        Returns:
            Whether all of them were answered in time.
        """
        with self._changed:
            self._draining = True
            return self._changed.wait_for(lambda: not self._waiting and not self._unanswered, timeout_s)

    def close(self) -> None:
        """End; requests that still wait get an error, and those that run have their answer. Twice is harmless."""
        with self._changed:
            self._draining = self._ended = True
            left, self._waiting = self._waiting, deque()
            self._changed.notify_all()
        for request in left:
            if request.future.set_running_or_notify_cancel():
                request.future.set_exception(Draining("this service ended before the request was begun"))
        for worker in self._workers:
            worker.join()

    def _take(self, call: Callable[[Pipeline], T]) -> Future[T]:
        """Let a request wait where a place was held for it."""
        future: Future[T] = Future()
        with self._changed:
            self._held -= 1
            self._check_going()
            self.admitted += 1
            self._waiting.append(_Request(call, future, time.monotonic()))
            self._changed.notify_all()
        return future

    def _check_going(self) -> None:
        if self._draining:
            self.refused += 1
            raise Draining("this service ends, and takes no more requests", fix="ask again when it runs again")

    def _check(self) -> None:
        self._check_going()
        if self._ahead >= self.depth:
            self._forget_cancelled()
        ahead = self._ahead
        if ahead >= self.depth:
            self.refused += 1
            raise Full(self.depth, ahead * self.p50_s / len(self._workers))

    @property
    def _ahead(self) -> int:
        return self._held + len(self._waiting) + self._running

    def _forget_cancelled(self) -> None:
        self._waiting = deque(request for request in self._waiting if not request.future.cancelled())

    def _work(self) -> None:
        while (request := self._next()) is not None:
            self._answer(request)
            del request  # nothing of it is kept until the next one comes
            with self._changed:
                self._unanswered -= 1
                self._changed.notify_all()

    def _next(self) -> _Request | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._ended)
            if not self._waiting:
                return None
            self._running += 1
            self._unanswered += 1
            return self._waiting.popleft()

    def _answer(self, request: _Request) -> None:
        """Call, and give the caller the answer; whoever has it finds a free place in the queue."""
        future, began_s = request.future, time.monotonic()
        waited_s = began_s - request.admitted_s
        if not future.set_running_or_notify_cancel():
            self._ran()
        elif self._deadline_s is not None and waited_s > self._deadline_s:
            self._ran(expired=1)
            future.set_exception(
                Expired(
                    "the request waited for too long and was not begun",
                    got=f"{waited_s:.1f} s",
                    expected=f"at most {self._deadline_s:g} s",
                )
            )
        else:
            try:
                answer = request.call(self._source.pipeline)
            except BaseException as error:  # noqa: BLE001 - the caller's, also a panic in a runtime
                self._ran(time.monotonic() - began_s)
                future.set_exception(error)
            else:
                self._ran(time.monotonic() - began_s)
                future.set_result(answer)

    def _ran(self, took_s: float | None = None, *, expired: int = 0) -> None:
        with self._changed:
            self._running -= 1
            self.expired += expired
            if took_s is not None:
                self._pace.add(took_s)
