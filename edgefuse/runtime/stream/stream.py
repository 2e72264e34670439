"""A stream: timed inputs over a pipeline, and predictions as they come due."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import replace
from threading import Condition, Lock
from types import TracebackType
from typing import TYPE_CHECKING, Any
from weakref import ref

from edgefuse.errors import EdgefuseError, InputError, shown
from edgefuse.runtime.cache import Kept
from edgefuse.runtime.forks import Guard
from edgefuse.runtime.graph import Inputs
from edgefuse.runtime.stream.answer import Answer
from edgefuse.runtime.stream.counts import Counts
from edgefuse.runtime.stream.feed import Feed
from edgefuse.runtime.stream.holder import Holder, Ladder, Runner
from edgefuse.runtime.stream.intake import Intake
from edgefuse.runtime.stream.source import Value
from edgefuse.runtime.stream.triggers import Due, Triggers

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Future
    from concurrent.futures import Executor

_log = logging.getLogger(__name__)
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
        ladder: is told how long each prediction took, and decides at which rung the next one runs.
        now: the clock of this machine, in seconds.

    Attributes:
        predictions: made so far.
        missed: of these, later than the deadline.

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
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.predictions = self.missed = 0
        self._holder, self._ladder, self._now = holder, ladder, now
        self._deadline_s = math.inf if deadline_ms is None else _positive("deadline_ms", deadline_ms) / 1000
        self._hop_s = None if hop_s is None else 0.0 if hop_s == 0 else _positive("hop_s", hop_s)
        if not isinstance(backlog, int):
            raise InputError("the stream's backlog makes no sense", got=shown(backlog, 80), expected="a whole number")
        self._triggers = Triggers(self._hop_s or 0.0, int(_positive("backlog", backlog)))
        self._names = tuple(holder.pipeline.preprocessors)
        feeds = feeds or {}
        if not isinstance(feeds, Mapping) or not all(isinstance(feed, Feed) for feed in feeds.values()):
            raise InputError("the stream's feeds make no sense", got=shown(feeds, 80), expected="a Feed by modality")
        for name in (*feeds, *([clock] if clock is not None else [])):
            self._check_name(name)
        self._intake = Intake(holder.pipeline.preprocessors, feeds, backlog * (self._hop_s or 0.0))
        self._clock = (*self._intake.series, *self._names)[0] if clock is None and self._hop_s else clock
        self._without: frozenset[str] = frozenset()
        self._kept = Kept(self._intake.series)
        self._guard = Guard()
        self._changed = Condition(Lock())
        self._predicting = Lock()
        self._closed = self._finished = False
        self._running: Callable[[], object] = lambda: None  # a weak reference: a pipeline that is let go of is freed
        self._sleepers: list[tuple[AbstractEventLoop, Future[None]]] = []
        self._worker: Executor | None = None
        self._follow(holder.pipeline)

    def push(self, modality: str, chunk: object, t: float | None = None) -> bool:
        """Hand over a chunk of a series, a picture, a text; return whether it was taken.

        It is not if it is late, a duplicate, or odd in time, or if no more is taken: `counts` says which. Pictures and
        texts are prepared here, in the caller's thread. What was given may be changed afterwards.

        Args:
            modality: its name.
            chunk: sound: float32, float64 or int16 [n], [1, n] or [n, channels], at the feed's rate; a series of
                arrays: [1, n, ...]; else what a call of the pipeline takes.
            t: seconds by the modality's clock: of the first step of a chunk, of the instant of anything else. If None,
                it ends now, by this machine's monotonic clock.

        Raises:
            InputError: if there is no such modality, or the chunk or its time cannot be used. The stream goes on.
            MissingExtraError: if it needs a library that is not installed.
            BackendError: if the stream was opened before this process was forked.
        """
        self._guard.check()
        self._check_name(modality)
        try:
            item, lasts_s = self._intake.sources[modality].check(chunk)
            given_s = self._now() - lasts_s if t is None else _checked_time(modality, t)
        except EdgefuseError:
            with self._changed:
                if not self._closed:
                    self._intake.refuse(modality)
            raise
        with self._changed:
            if self._closed or self._finished:
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
        answer = None if time_s is None else self._answer(Due(time_s, self._now()))
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
        while (due := self._take()) is not None:
            if (answer := self._answer(due)) is not None:
                return answer
            with self._changed:
                self._triggers.skipped += 1
        return None

    def finish(self) -> None:
        """Take no more; iterators end after what is due."""
        self._guard.check()
        with self._changed:
            self._finished = True
            self._wake()

    def close(self) -> None:
        """Take no more, and end all iterators. Closing twice is harmless, and so is closing in a forked child."""
        if self._guard.inherited:  # a thread of the parent may hold the lock for ever
            return
        with self._changed:
            if not self._closed:
                self._closed = True
                self._intake.close()
                self._wake()
        if self._worker is not None:
            self._worker.shutdown(wait=False)

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
            return self._intake.size_bytes + self._kept.size_bytes

    def __next__(self) -> Answer:
        self._guard.check()
        while True:
            with self._changed:
                while not self._triggers and not self._ended:
                    self._changed.wait()
                if self._ended:
                    raise StopIteration
            if (answer := self.poll()) is not None:
                return answer

    async def __anext__(self) -> Answer:
        import asyncio  # which most devices do without

        self._guard.check()
        loop = asyncio.get_running_loop()
        while True:
            sleeper = loop, loop.create_future()
            with self._changed:
                if self._ended:
                    raise StopAsyncIteration
                self._worker = self._worker or _one_thread()
                made = self._worker.submit(self.poll) if self._triggers else None
                if made is None:
                    self._sleepers.append(sleeper)
            if made is None:
                try:
                    await sleeper[1]
                finally:
                    with self._changed:
                        if sleeper in self._sleepers:  # it was cancelled
                            self._sleepers.remove(sleeper)
            elif (answer := await asyncio.wrap_future(made)) is not None:
                return answer

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _ended(self) -> bool:
        return self._closed or (self._finished and not self._triggers)

    def _is_due(self, modality: str, now_s: float) -> bool:
        """Return whether something has become due with an item of a modality."""
        if self._hop_s is None or self._clock not in (None, modality):
            return False
        source, time_s = self._intake.sources[modality], self._intake.time_s
        if not self._hop_s:
            return time_s is not None and self._triggers.reach(time_s, time_s, now_s)
        if source.ready_s is None or source.start_s is None:
            return False
        return self._triggers.reach(source.ready_s, source.start_s, now_s)

    def _wake(self) -> None:
        """Wake all who wait for predictions."""
        self._changed.notify_all()
        sleepers, self._sleepers = self._sleepers, []
        for loop, woken in sleepers:
            if not loop.is_closed():
                loop.call_soon_threadsafe(_settle, woken)

    def _take(self) -> Due | None:
        with self._changed:
            return None if self._closed else self._triggers.take()

    def _answer(self, due: Due) -> Answer | None:
        """Return the prediction at a time; None if there is nothing to predict from, or the stream is closed."""
        with self._predicting:
            pipeline = self._holder.pipeline
            self._follow(pipeline)
            with self._changed:
                taken = None if self._closed else self._intake.take(due.time_s, self._without)
            if taken is None:
                return None
            found = {name: prepare() for name, prepare in taken.items()}
            outputs = pipeline.infer(self._inputs(pipeline, found))
            now_s = self._now()
            took_s = now_s - due.since_s
            missed = took_s > self._deadline_s
            self.predictions += 1
            self.missed += missed
            self._consult(pipeline, now_s, took_s)
            return Answer(
                outputs=outputs,
                spec=pipeline.manifest.model.outputs,
                time_s=due.time_s,
                ages={name: due.time_s - value.time_s for name, value in found.items()},
                latency_s=took_s,
                missed=missed,
                rung=pipeline.rung.name,
            )

    def _inputs(self, pipeline: Runner, found: Mapping[str, Value]) -> Inputs:
        self._kept.keys = {name: value.key for name, value in found.items()}
        return Inputs(
            values={key: array for value in found.values() for key, array in value.values.items()},
            present=tuple(found),
            encoded=tuple(name for name, value in found.items() if value.encoded),
            kept=self._kept if pipeline.cache.entries else None,
        )

    def _follow(self, pipeline: Runner) -> None:
        """Go on with the pipeline that runs now; files of encoders are opened without the lock."""
        if self._running() is pipeline:
            return
        streaming = set(pipeline.streaming)
        encoders = {name: pipeline.incremental(name) for name in self._intake.incremental if name in streaming}
        with self._changed:
            self._intake.follow(pipeline.preprocessors, encoders)
        self._running = ref(pipeline)

    def _consult(self, pipeline: Runner, now_s: float, took_s: float) -> None:
        """Tell the ladder, and do what it decides; where that cannot be done, the answer is not lost for it."""
        if self._ladder is None:
            return
        self._ladder.observe(now_s, took_s, self._deadline_s)
        change = self._ladder.decide(now_s)
        if change is not None:
            self._without = frozenset(change.without)
            if change.rung != pipeline.rung.name:
                try:
                    self._holder.pipeline = pipeline.at(change.rung)  # type: ignore[misc] # see `Holder`
                except EdgefuseError as error:  # such as that of a bundle that was swapped for one with other rungs
                    _log.warning("the stream stays at the rung '%s': %s", pipeline.rung.name, str(error))

    def _check_open(self) -> None:
        if self._closed:
            raise InputError("this stream is closed", fix="open another one with pipeline.stream()")

    def _check_name(self, name: str) -> None:
        if name not in self._names:
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
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not _LEAST <= value <= _MOST:
        raise InputError(
            f"the stream's {name} makes no sense", got=shown(value, 80), expected="a number above 0, up to 1e9"
        )
    return value
