"""A source of steps: sound, arrays over time; an input is the last window of them."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
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
from edgefuse.runtime.stream.ordering import Chunk, Ordering
from edgefuse.runtime.stream.resampling import Resampling
from edgefuse.runtime.stream.source import Value
from edgefuse.runtime.stream.window import Window

_NO_STEPS: Array = np.zeros(0, np.float32)


class Series:
    """Steps in a ring buffer; see `Source`.

    Chunks are put in order at the rate at which they come, resampled if that is not the model's, and written to the
    window. What never came is zeros, unless it is as long as the window: then the window begins anew. Where the bundle
    has an encoder that goes chunk by chunk, it takes what the window has got since the last prediction.

    Args:
        preprocessor: of the modality.
        feed: how it comes in.
        counts: of the modality.
        slack_s: how far back from its end a window may be asked for.

    Raises:
        InputError: if the model's input is not of that kind, or smaller than the feed says.
        MissingExtraError: if it has to be resampled, and soxr is not installed.
    """

    def __init__(self, preprocessor: Preprocessor, feed: Feed, counts: Counts, slack_s: float) -> None:
        modality = preprocessor.modality
        self.preprocessor = preprocessor
        self._counts = counts
        self._given_hz, self._model_hz = feed.rates_hz(modality)
        self._steps = feed.window_steps(modality)
        self._least = feed.least_steps(modality)
        self._max_age_s = feed.age_limit_s(modality)
        self._batched = not isinstance(modality.preprocess, AudioPreprocess)
        self._max_items = feed.item_limit(modality)
        tensor = modality.tensors[0]
        step_bytes = np.dtype(tensor.dtype).itemsize * math.prod(tensor.max_shape[2:])
        kept = self._steps + min(round(slack_s * self._model_hz), feed.max_bytes // step_bytes)
        self._window = Window(kept, tensor.max_shape[2:], tensor.dtype)
        horizon, jitter = round(feed.reorder_s * self._given_hz), round(feed.jitter_s * self._given_hz)
        self._ordering = Ordering(horizon, jitter, self._max_items, feed.max_bytes)
        same = self._given_hz == self._model_hz
        self._resampling = None if same else Resampling(self._given_hz, self._model_hz)
        self._seen: deque[Chunk] = deque()  # those that the window still holds, without their steps
        self._fresh: deque[Chunk] = deque()  # those of them that no prediction has seen
        self._encoding: Encoding | None = None
        self._serial = 0  # of the window: how often it began anew

    def check(self, raw: object) -> tuple[Array, float]:
        """Return a chunk, steps first, and its seconds."""
        steps = self.preprocessor.chunk(raw)
        return steps, len(steps) / self._given_hz

    def push(self, item: Any, time_s: float) -> bool:
        """Take a chunk; see `Source`."""
        steps: Array = item
        place = round(time_s * self._given_hz)
        if (chunk := self._ordering.follow(place, steps)) is not None:
            self._write(0, chunk)
            return True
        refusal = self._ordering.add(place, steps)
        if refusal == "duplicate":
            self._counts.drop(duplicate=True)
        elif refusal == "late":
            self._counts.late += 1
        self._settle(None)
        return refusal is None

    @property
    def ready_s(self) -> float | None:
        """The end of the window."""
        return self._window.end / self._model_hz if self._ordering.next is not None else None

    @property
    def start_s(self) -> float | None:
        """The beginning of the window."""
        return self._window.start / self._model_hz if self._ordering.next is not None else None

    def take(self, time_s: float) -> Callable[[], Value] | None:
        """Take the last window up to a time; see `Source`."""
        bounded_s = min(time_s, 1e12)
        if self._ordering.waits:
            self._settle(round(bounded_s * self._given_hz))
        window = self._window
        at = min(round(bounded_s * self._model_hz), window.end)
        ends_s = at / self._model_hz
        if time_s - ends_s > self._max_age_s:
            self._forget(stale=True)
            window.restart(window.end)
            return None
        count = window.count(at, self._steps)
        if count < max(1, self._least):
            return None
        if self._fresh:
            self._use(at - count, at)
        if (encoding := self._encoding) is not None and count == self._steps:
            return partial(encoding, self._serial, at, window.last(at, encoding.missing(self._serial, at, count)))
        return partial(self._prepared, window.last(at, count), Value({}, ends_s, (self._serial, at, count)))

    def _use(self, begin: int, end: int) -> None:
        """Count what a prediction sees first."""
        fresh, self._fresh = self._fresh, deque()
        for chunk in fresh:
            if chunk.start < end and chunk.end > begin:
                chunk.used = True
                self._counts.used += 1
            else:
                self._fresh.append(chunk)

    def flush(self) -> None:
        """Write what waits behind a gap; see `Source`."""
        for gap, chunk in self._ordering.drain():
            self._write(gap, chunk)

    def _prepared(self, steps: Array, value: Value) -> Value:
        return value._replace(values=self.preprocessor(steps[None] if self._batched else steps))

    def restart(self) -> None:
        """Begin anew; see `Source`."""
        self.flush()
        self._forget()
        self._ordering.restart()

    def renew(self, preprocessor: Preprocessor, encoder: Incremental | None) -> None:
        """Go on with another pipeline: windows are prepared when they are asked for. See `Source`."""
        if preprocessor is not self.preprocessor:
            self.preprocessor = preprocessor
            self._serial += 1
        self._encoding = Encoding(encoder, self._model_hz) if encoder is not None else None

    def close(self) -> None:
        """Count what waits as dropped."""
        self.restart()

    @property
    def size_bytes(self) -> int:
        """Of the ring buffer and of what waits to be put in order."""
        return self._window.size_bytes + self._ordering.size_bytes

    def _settle(self, now: int | None) -> None:
        """Write what need not wait any more."""
        began = self._ordering.next is None
        for gap, chunk in self._ordering.ready(now):
            if began:
                began = False
                self._begin(chunk.start)
            self._write(gap, chunk)

    def _begin(self, place: int) -> None:
        """Begin the window at a step of what is pushed."""
        self._serial += 1
        self._window.restart(self._at_model_rate(place))
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
        self._append(chunk.steps)
        if not len(chunk.steps):  # all of it had come in other chunks
            self._counts.drop(duplicate=True)
            return
        if self._resampling:
            chunk.start = self._at_model_rate(chunk.start)
            chunk.end = max(chunk.start + 1, self._at_model_rate(chunk.end))
        chunk.steps = _NO_STEPS
        seen = self._seen
        seen.append(chunk)
        self._fresh.append(chunk)
        if len(seen) > self._max_items:
            self._window.forget(seen[0].end)
        while seen and seen[0].end <= self._window.begin:
            if not seen.popleft().used:
                self._fresh.popleft()  # it is the oldest of them, too
                self._counts.drop()

    def _append(self, steps: Array) -> None:
        self._window.append(self._resampling(steps) if self._resampling else steps)

    def _at_model_rate(self, place: int) -> int:
        return place if self._resampling is None else round(place * self._model_hz / self._given_hz)

    def _forget(self, *, stale: bool = False) -> None:
        """Count what the window holds and no prediction has seen as dropped."""
        for _ in self._fresh:
            self._counts.drop(stale=stale)
        self._seen.clear()
        self._fresh.clear()
