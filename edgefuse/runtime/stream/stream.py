"""A stream: timed inputs over a pipeline, and predictions as they come due."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from threading import Condition, Lock
from types import TracebackType
from typing import TYPE_CHECKING, Any

from edgefuse.errors import EdgefuseError, InputError, shown
from edgefuse.runtime.forks import Guard
from edgefuse.runtime.numbers import number_of
from edgefuse.runtime.stream.answer import Answer
from edgefuse.runtime.stream.counts import Counts
from edgefuse.runtime.stream.feed import Feed
from edgefuse.runtime.stream.holder import Holder, Ladder
from edgefuse.runtime.stream.intake import Intake
from edgefuse.runtime.stream.predictor import Predictor
from edgefuse.runtime.stream.triggers import Due, Triggers

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Future
    from concurrent.futures import Executor

_LEAST, _MOST = 1e-9, 1e9
"""Of a setting: what is beyond them is a mistake in a unit, and overflows."""
_LATEST_S = 1e12
"""Of a time: what is beyond it counts no seconds, and floats are too coarse for samples."""


class Stream(Iterator[Answer], AsyncIterator[Answer]):
    """Timed inputs over a pipeline, and predictions as they come due; `Pipeline.stream` makes it.

        with pipeline.stream(hop_s=0.1) as stream:
            stream.push("audio", chunk, t)      # from any thread
            for answer in stream:               # in another one; or `async for`
                print(answer.time_s, answer.label, answer.ages)

    `push` may be called from any thread; it waits for no prediction, and a full queue drops its oldest. Predictions run
    in the thread that asks for them, or in one thread of the stream for `async for`, one at a time. All streams over
    one open bundle take turns: they never use more threads than it was given, and get equal shares. Iterators end when
    the stream is closed, or after what is due once it is finished.

    Args:
        holder: of the pipeline. A change of it takes effect at the next prediction.
        deadline_ms: from when a prediction is due to its answer; answers that took longer say so.
        clock: the modality at whose times predictions are due. None: with a hop the first series, or else the first
            modality; without a hop any modality.
        hop_s: of that modality's time between two predictions; 0: at each push; None: only when `predict` is called.
        backlog: predictions that may wait; the oldest of more are skipped.
        feeds: by modality how it comes in; what is left out comes as `Feed()` says.
        ladder: is told how long each prediction took, without pauses of whoever asks, and decides at which rung the
            next one runs.
        now: the clock of this machine, in seconds.

    Raises:
        InputError: if a setting does not fit the model.
        MissingExtraError: if sound has to be resampled, and soxr is not installed.
    """

    def __init__(
        self,
        holder: Holder,
        deadline_ms: float | None = None,
        *,
        clock: str | None = None,
        hop_s: float | None = 0.0,
        backlog: int = 8,
        feeds: Mapping[str, Feed] | None = None,
        ladder: Ladder | None = None,
        now: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._now = now
        deadline_s = math.inf if deadline_ms is None else _positive("deadline_ms", deadline_ms) / 1000
        self._hop_s = None if hop_s is None else 0.0 if number_of(hop_s) == 0 else _positive("hop_s", hop_s)
        waiting = _whole("backlog", backlog)
        self._triggers = Triggers(self._hop_s or 0.0, waiting)
        self._names = tuple(holder.pipeline.preprocessors)
        feeds = feeds or {}
        if not isinstance(feeds, Mapping) or not all(isinstance(feed, Feed) for feed in feeds.values()):
            raise InputError("the stream's feeds make no sense", got=shown(feeds, 80), expected="a Feed by modality")
        for name in (*feeds, *([clock] if clock is not None else [])):
            self._check_name(name)
        self._intake = Intake(holder.pipeline.preprocessors, feeds, self._hop_s, 0 if hop_s is None else waiting)
        self._clock = (*self._intake.series, *self._names)[0] if clock is None and self._hop_s else clock
        self._guard = Guard()
        self._changed = Condition(Lock())
        self._predictor = Predictor(holder, self._intake, self._changed, deadline_s=deadline_s, ladder=ladder, now=now)
        self._finished = False
        self._sleepers: list[tuple[AbstractEventLoop, Future[None]]] = []
        self._worker: Executor | None = None
        self._working = False
        self._ahead: deque[Answer | Exception] = deque()  # what the worker made, for whoever asks next

    def push(self, modality: str, chunk: object, t: float | None = None) -> bool:
        """Hand over a chunk of a series, a picture, a text; return whether it was taken.

        It is not if it is late, a duplicate, or odd in time, or if no more is taken: `counts` says which. Pictures and
        texts are prepared here, in the caller's thread. What was given may be changed afterwards.

        Args:
            modality: its name.
            chunk: sound: float32, float64 or int16 [n], [1, n] or [n, channels], at the feed's rate; a series of
                arrays: [1, n, ...]; else what a call of the pipeline takes.
            t: seconds by the modality's clock: of the first step of a chunk, of the instant of anything else. If None,
                it ends now, by this machine's `time.perf_counter`: a chunk of a series follows on the one before it,
                unless it comes more than `reorder_s` later or earlier.

        Raises:
            InputError: if there is no such modality, or the chunk or its time cannot be used. The stream goes on.
            MissingExtraError: if it needs a library that is not installed.
            BackendError: if the stream was opened before this process was forked.
        """
        self._guard.check()
        self._check_name(modality)
        try:
            item, lasts_s = self._intake.sources[modality].check(chunk)
            given_s = None if t is None else _checked_time(modality, t)
        except EdgefuseError:
            with self._changed:
                if not self._intake.closed:
                    self._intake.refuse(modality)
            raise
        with self._changed:
            if self._intake.closed or self._finished:
                return False
            now_s = self._now()
            taken = self._intake.push(modality, item, given_s, lasts_s, now_s)
            if taken and self._is_due(modality, now_s):
                self._wake()
            return taken

    def predict(self, t: float | None = None) -> Answer:
        """Predict at a time of the stream, now.

        Args:
            t: seconds on the time of the stream; its newest if None.

        Raises:
            InputError: if nothing is present then, or a required modality is not, or the stream is closed.
            BackendError: if a runtime cannot run a stage.
        """
        self._guard.check()
        with self._changed:
            self._check_open()
            time_s = self._intake.time_s if t is None else _checked_time("a prediction", t)
            now_s = self._now()
        answer = None if time_s is None else self._predictor.answer(Due(time_s, now_s), now_s)
        if answer is None:
            self._check_open()  # it may have been closed meanwhile
            raise InputError("the stream has nothing to predict from", expected="data that are not too old")
        return answer

    def poll(self) -> Answer | None:
        """Return the prediction that has been due for the longest time, without waiting; None if none is.

        A time at which nothing is present, or a required modality is not, is skipped.

        Raises:
            InputError: if the pipeline was closed, or now is that of a bundle with other inputs.
            BackendError: if a runtime cannot run a stage.
        """
        self._guard.check()
        return self._polled(self._now())

    def finish(self) -> None:
        """Take no more; iterators end after what is due. What waits for something that is missing waits no longer."""
        self._guard.check()
        with self._changed:
            if not self._finished and not self._intake.closed:
                self._finished = True
                flushed, now_s = self._intake.flush(), self._now()
                any(self._is_due(name, now_s) for name in flushed)  # of all of them, one prediction is due
            self._wake()

    def close(self) -> None:
        """Take no more, and end all iterators. Closing twice is harmless, and so is closing in a forked child."""
        if self._guard.inherited:  # a thread of the parent may hold the lock for ever
            return
        with self._changed:
            if not self._intake.closed:
                self._intake.close()
                self._wake()
        if self._worker is not None:
            self._worker.shutdown(wait=False)

    @property
    def predictions(self) -> int:
        """Made so far."""
        return self._predictor.predictions

    @property
    def missed(self) -> int:
        """Of these, how many were later than the deadline."""
        return self._predictor.missed

    @property
    def counts(self) -> dict[str, Counts]:
        """What became of the pushes so far, by modality."""
        self._guard.check()
        with self._changed:
            return {name: replace(counts) for name, counts in self._intake.counts.items()}

    @property
    def skipped(self) -> int:
        """Predictions that were due and not made: there was no time for them, or nothing to predict from."""
        return self._triggers.skipped

    @property
    def size_bytes(self) -> int:
        """Of all that the stream keeps now: buffers, items, features."""
        self._guard.check()
        with self._changed:
            return self._intake.size_bytes + self._predictor.size_bytes

    def __next__(self) -> Answer:
        self._guard.check()
        asked_s = self._now()
        while True:
            with self._changed:
                while not (self._triggers or self._ahead or self._ended):
                    self._changed.wait()
                if self._ended:
                    raise StopIteration
            if (answer := self._polled(asked_s)) is not None:
                return answer

    async def __anext__(self) -> Answer:
        import asyncio  # which most devices do without

        self._guard.check()
        loop, asked_s = asyncio.get_running_loop(), self._now()
        while True:
            sleeper = loop, loop.create_future()
            with self._changed:
                if self._ended:
                    raise StopAsyncIteration
                if self._ahead:
                    return self._made_ahead()
                if self._triggers and not self._working:
                    self._worker = self._worker or _one_thread()
                    self._worker.submit(self._work, asked_s)
                    self._working = True
                self._sleepers.append(sleeper)
            try:
                await sleeper[1]
            finally:
                with self._changed:
                    if sleeper in self._sleepers:  # it was cancelled
                        self._sleepers.remove(sleeper)

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _ended(self) -> bool:
        return self._intake.closed or (self._finished and not (self._triggers or self._working or self._ahead))

    def _is_due(self, modality: str, now_s: float) -> bool:
        """Return whether something has become due with an item of a modality."""
        if self._hop_s is None:
            return False
        if not self._hop_s:
            time_s = self._intake.time_s
            is_clock = self._clock in (None, modality)
            return is_clock and time_s is not None and self._triggers.reach(time_s, time_s, now_s)
        source = self._intake.sources[self._clock or modality]  # what waited there may have become ready with it
        ready_s, start_s = source.ready_s, source.start_s
        return ready_s is not None and start_s is not None and self._triggers.reach(ready_s, start_s, now_s)

    def _wake(self) -> None:
        """Wake all who wait for predictions."""
        self._changed.notify_all()
        sleepers, self._sleepers = self._sleepers, []
        for loop, woken in sleepers:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(_settle, woken)

    def _polled(self, asked_s: float) -> Answer | None:
        """Return what was made ahead, or make the next one; `asked_s`: when somebody asked for it."""
        if self._ahead:
            with self._changed:
                if self._ahead:
                    return self._made_ahead()
        return self._next(asked_s)

    def _next(self, asked_s: float) -> Answer | None:
        """Make the prediction that has been due for the longest time."""
        while True:
            with self._changed:
                due = None if self._intake.closed else self._triggers.take()
            if due is None:
                return None
            if (answer := self._predictor.answer(due, asked_s)) is not None:
                return answer
            with self._changed:
                self._triggers.skipped += 1

    def _work(self, asked_s: float) -> None:
        """Make a prediction that is due, in the stream's thread: who asked may have given up, and another gets it."""
        made: Answer | Exception | None
        try:
            made = self._next(asked_s)
        except Exception as error:  # noqa: BLE001 - whoever asks next raises it
            made = error
        with self._changed:
            self._working = False
            if made is not None:
                self._ahead.append(made)
            self._wake()

    def _made_ahead(self) -> Answer:
        made = self._ahead.popleft()
        if isinstance(made, Exception):
            raise made
        return made

    def _check_open(self) -> None:
        if self._intake.closed:
            raise InputError("this stream is closed", fix="open another one with pipeline.stream()")

    def _check_name(self, name: str) -> None:
        if not isinstance(name, str) or name not in self._names:
            raise InputError(f"this model has no modality '{shown(name, 80)}'", expected=" or ".join(self._names))


def _settle(woken: Future[None]) -> None:
    if not woken.done():
        woken.set_result(None)


def _one_thread() -> Executor:
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(1, thread_name_prefix="edgefuse-stream")


def _checked_time(whose: str, t: Any) -> float:
    try:
        given = math.nan if isinstance(t, bool | str) else float(t)
    except (TypeError, ValueError, OverflowError):
        given = math.nan
    if not abs(given) <= _LATEST_S:
        raise InputError(f"the time of '{whose}' makes no sense", got=shown(t, 80), expected="seconds, a finite number")
    return given


def _positive(name: str, value: float) -> float:
    number = number_of(value)
    if number is None or not _LEAST <= number <= _MOST:
        raise InputError(
            f"the stream's {name} makes no sense", got=shown(value, 80), expected="a number above 0, up to 1e9"
        )
    return number


def _whole(name: str, value: int) -> int:
    if number_of(value, whole=True) is None:
        raise InputError(f"the stream's {name} makes no sense", got=shown(value, 80), expected="a whole number")
    return int(_positive(name, value))
