"""A source of steps: sound, arrays over time; an input is the last window of them."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from edgefuse.bundle.spec import AudioPreprocess
from edgefuse.runtime.backends.backend import Array
from edgefuse.runtime.incremental import Incremental
from edgefuse.runtime.preprocess import Preprocessor
from edgefuse.runtime.stream.counts import Counts
from edgefuse.runtime.stream.encoding import Encoding
from edgefuse.runtime.stream.feed import Feed
from edgefuse.runtime.stream.grid import Grid
from edgefuse.runtime.stream.ordering import Chunk, Ordering
from edgefuse.runtime.stream.resampling import Resampling
from edgefuse.runtime.stream.source import Value
from edgefuse.runtime.stream.window import Window

_NO_STEPS: Array = np.zeros(0, np.float32)
_REMEMBERED = 64


class Series:
    """Steps in a ring buffer; see `Source`.

    Chunks are put in order at the rate at which they come, resampled if that is not the model's, and written to the
    window. What never came is zeros, unless it is as long as the window: then the window begins anew. Where the bundle
    has an encoder that goes chunk by chunk, it takes what the window has got since the last prediction.

    Args:
        preprocessor: of the modality.
        feed: how it comes in.
        counts: of the modality.
        hop_s: between predictions; 0: they are due at chunks; None: when they are asked for.
        backlog: predictions that may wait: from its end, a window may be asked for so many hops, or chunks, back.

    Raises:
        InputError: if the model's input is not of that kind, or smaller than the feed says.
        MissingExtraError: if it has to be resampled, and soxr is not installed.
    """

    def __init__(
        self, preprocessor: Preprocessor, feed: Feed, counts: Counts, hop_s: float | None, backlog: int
    ) -> None:
        modality = preprocessor.modality
        self.preprocessor = preprocessor
        self._counts = counts
        self._given_hz, self._model_hz = feed.rates_hz(modality)
        self._steps = feed.window_steps(modality)
        self._least = max(1, feed.least_steps(modality))
        self._max_age_s = feed.age_limit_s(modality)
        self._batched = not isinstance(modality.preprocess, AudioPreprocess)
        self._max_items = feed.item_limit(modality)
        tensor = modality.tensors[0]
        step_bytes = np.dtype(tensor.dtype).itemsize * math.prod(tensor.max_shape[2:])
        self._most_slack = feed.max_bytes // step_bytes
        slack = min(round(backlog * (hop_s or 0.0) * self._model_hz), self._most_slack)
        self._window = Window(self._steps + slack, tensor.max_shape[2:], tensor.dtype)
        self._backlog, self._longest = (0 if hop_s else backlog), 0  # the longest chunk so far
        horizon, jitter = round(feed.reorder_s * self._given_hz), round(feed.jitter_s * self._given_hz)
        self._ordering = Ordering(horizon, jitter, self._max_items, feed.max_bytes)
        self._grid = Grid(self._given_hz, self._model_hz, feed.jitter_s)
        same = self._given_hz == self._model_hz
        self._resampling = None if same else Resampling(self._given_hz, self._model_hz)
        self._recent: deque[float] = deque(maxlen=_REMEMBERED)  # times of chunks
        self._fresh: deque[Chunk] = deque()  # those in the window that no prediction has seen, without their steps
        self._at = self._count = 0  # of the window that was sought: the step after its last one, and how many
        self._ends_s = 0.0  # the time of its end
        self._encoding: Encoding | None = None
        self._serial = 0  # of the window: how often it began anew

    def check(self, raw: object) -> tuple[Array, float]:
        """Return a chunk, steps first, and its seconds."""
        steps = self.preprocessor.chunk(raw)
        return steps, len(steps) / self._given_hz

    def push(self, item: Any, time_s: float, timed: bool) -> float | None:
        """Take a chunk; see `Source`."""
        steps: Array = item
        if timed and time_s in self._recent:
            self._counts.drop(duplicate=True)
            return None
        self._recent.append(time_s)
        ordering, grid = self._ordering, self._grid
        if ordering.next is None:
            grid.begin(time_s)
        place = grid.place(time_s)
        if (chunk := ordering.follow(place, steps, timed)) is not None:
            place = chunk.start
            self._write(0, chunk)
        elif ordering.add(place, steps):
            self._settle(ordering.ready() if timed else ordering.drain())  # what has no time of its own is in order
        else:
            self._counts.late += 1
            return None
        grid.follow(time_s, place)
        return grid.end_s(place + len(steps))

    @property
    def ready_s(self) -> float | None:
        """The end of the window."""
        return self._grid.time_s(self._window.end) if self._ordering.next is not None else None

    @property
    def start_s(self) -> float | None:
        """The beginning of the window."""
        return self._grid.time_s(self._window.start) if self._ordering.next is not None else None

    def advance(self, time_s: float) -> None:
        """Write what has waited for long enough; see `Source`."""
        if self._ordering.waits:
            self._settle(self._ordering.ready(self._grid.place(time_s)))

    def seek(self, time_s: float) -> bool:
        """Go to the last window up to a time, or to the oldest one that is whole if it was forgotten; see `Source`."""
        self.advance(time_s)
        window, grid = self._window, self._grid
        at = min(grid.step(time_s), window.end)
        if at < window.begin + self._steps and window.begin > window.start:
            at = window.begin + self._steps
        self._at, self._ends_s = at, grid.time_s(at)
        if time_s - self._ends_s > self._max_age_s:
            self._forget(stale=True)
            window.restart(window.end)
            return False
        self._count = count = window.count(at, self._steps)
        return count >= self._least

    def take(self) -> Callable[[], Value]:
        """Take that window; see `Source`."""
        at, count, ends_s, window, serial = self._at, self._count, self._ends_s, self._window, self._serial
        if self._fresh:
            self._use(at - count, at)
        if (encoding := self._encoding) is not None and count == self._steps:
            return partial(encoding, serial, at, ends_s, window.last(at, encoding.missing(serial, at, count)))
        return partial(self._prepared, window.last(at, count), ends_s, (serial, at, count))

    def _use(self, begin: int, end: int) -> None:
        """Count what a prediction sees first."""
        fresh, self._fresh = self._fresh, deque()
        for chunk in fresh:
            if chunk.start < end and chunk.end > begin:
                self._counts.used += 1
            else:
                self._fresh.append(chunk)

    def flush(self) -> bool:
        """Write what waits behind a gap; see `Source`."""
        waited = self._ordering.waits
        self._settle(self._ordering.drain())
        return waited

    def _prepared(self, steps: Array, ends_s: float, key: tuple[int, int, int]) -> Value:
        return Value(self.preprocessor(steps[None] if self._batched else steps), ends_s, key)

    def restart(self) -> None:
        """Begin anew; see `Source`."""
        self.flush()
        self._forget()
        self._ordering.restart()
        self._recent.clear()

    def renew(self, preprocessor: Preprocessor, encoder: Incremental | None) -> None:
        """Go on with another pipeline: windows are prepared when they are asked for. See `Source`."""
        if preprocessor is not self.preprocessor:
            self.preprocessor = preprocessor
            self._serial += 1
        self._encoding = Encoding(encoder, self._model_hz) if encoder is not None else None

    def close(self) -> None:
        """Count what waits as dropped, and let go of the encoder, which holds its pipeline."""
        self.restart()
        self._encoding = None

    @property
    def size_bytes(self) -> int:
        """Of the ring buffer and of what waits to be put in order."""
        return self._window.size_bytes + self._ordering.size_bytes

    def _settle(self, ready: Iterator[tuple[int, Chunk]]) -> None:
        """Write what need not wait any more."""
        began = self._ordering.next is None
        for gap, chunk in ready:
            if began:
                began = False
                self._begin(chunk.start)
            self._write(gap, chunk)

    def _begin(self, place: int) -> None:
        """Begin the window at a step of what is pushed."""
        self._serial += 1
        self._window.restart(self._grid.at_model_rate(place))
        if self._resampling:
            self._resampling.restart()

    def _write(self, gap: int, chunk: Chunk) -> None:
        """Write a chunk to the window, after zeros for what is missing before it."""
        self._counts.lost_s += gap / self._given_hz
        if gap >= self._steps * self._given_hz / self._model_hz:
            self._forget()
            self._begin(chunk.start)
        elif gap:
            self._append(np.zeros((gap, *chunk.steps.shape[1:]), chunk.steps.dtype))
        if self._backlog and len(chunk.steps) > self._longest:
            self._widen(len(chunk.steps))
        self._append(chunk.steps)
        if not len(chunk.steps):  # all of it had come in other chunks
            self._counts.drop(duplicate=True)
            return
        if self._resampling:
            chunk.start = self._grid.at_model_rate(chunk.start)
            chunk.end = max(chunk.start + 1, self._grid.at_model_rate(chunk.end))
        chunk.steps = _NO_STEPS
        fresh = self._fresh
        fresh.append(chunk)
        if len(fresh) > self._max_items:
            self._window.forget(fresh[0].end)
        while fresh and fresh[0].end <= self._window.begin:
            fresh.popleft()
            self._counts.drop()

    def _append(self, steps: Array) -> None:
        self._window.append(self._resampling(steps) if self._resampling else steps)

    def _widen(self, steps: int) -> None:
        """Keep what predictions that are due at chunks so long may wait for."""
        self._longest = steps
        slack = self._backlog * self._grid.at_model_rate(steps)
        self._window.widen(self._steps + min(slack, self._most_slack))

    def _forget(self, *, stale: bool = False) -> None:
        """Count what the window holds and no prediction has seen as dropped."""
        for _ in self._fresh:
            self._counts.drop(stale=stale)
        self._fresh.clear()
