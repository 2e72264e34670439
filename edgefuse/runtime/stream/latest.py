"""A source of which the latest item counts: a picture, a text, a whole array."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any, NamedTuple

from edgefuse.bundle.spec import TextPreprocess
from edgefuse.runtime.backends.backend import Array
from edgefuse.runtime.incremental import Incremental
from edgefuse.runtime.preprocess import Preprocessor
from edgefuse.runtime.stream.counts import Counts
from edgefuse.runtime.stream.feed import Feed
from edgefuse.runtime.stream.source import Value

_REMEMBERED = 64


class _Prepared(NamedTuple):
    """Tensors, what they were made by, and a text that they were made of: another tokenizer makes others of it."""

    values: Mapping[str, Array]
    by: Preprocessor
    text: str | None


@dataclass(slots=True)
class _Item:
    made: _Prepared
    value: Value
    used: bool = False

    @property
    def time_s(self) -> float:
        return self.value.time_s

    @property
    def size_bytes(self) -> int:
        return sum(value.nbytes for value in self.value.values.values())


class Latest:
    """The last few items in the order of their times, prepared when they were pushed; see `Source`.

    At a time, the newest item that is not newer counts; before the first, the first. Items before it go.

    Args:
        preprocessor: of the modality.
        feed: how it comes in.
        counts: of the modality.

    Raises:
        InputError: if the feed says what only a series has.
    """

    def __init__(self, preprocessor: Preprocessor, feed: Feed, counts: Counts) -> None:
        feed.check_whole(preprocessor.modality)
        self.preprocessor = preprocessor
        self._counts = counts
        self._max_age_s = feed.age_limit_s(preprocessor.modality)
        self._reorder_s = feed.reorder_s
        self._max_items, self._max_bytes = feed.item_limit(preprocessor.modality), feed.max_bytes
        self._items: list[_Item] = []
        self._recent: deque[float] = deque(maxlen=_REMEMBERED)
        self._numbers = count()
        self._start_s: float | None = None
        self._newest_s: float | None = None
        self._passed_s = -float("inf")

    def check(self, raw: object) -> tuple[_Prepared, float]:
        """Return an item's tensors, which are the stream's own, and that it lasts no time."""
        return _prepared(raw, self.preprocessor), 0.0

    def push(self, item: Any, time_s: float, timed: bool) -> float | None:
        """Take an item; see `Source`."""
        if timed and time_s in self._recent:
            self._counts.drop(duplicate=True)
            return None
        self._recent.append(time_s)
        newest_s = time_s if self._newest_s is None else self._newest_s
        if time_s < newest_s - self._reorder_s or time_s < self._passed_s:
            self._counts.late += 1
            return None
        if self._start_s is None:
            self._start_s = time_s
        self._newest_s = max(newest_s, time_s)
        self._items.insert(self._after(time_s), self._item(item, time_s))
        while len(self._items) > 1 and (
            len(self._items) > self._max_items or sum(kept.size_bytes for kept in self._items) > self._max_bytes
        ):
            self._drop_first()
        return time_s

    @property
    def ready_s(self) -> float | None:
        """The time of the newest item: an older one cannot take its place."""
        return self._newest_s

    @property
    def start_s(self) -> float | None:
        """The time of the first item."""
        return self._start_s

    def advance(self, time_s: float) -> None:
        """Nothing waits for anything; see `Source`."""

    def seek(self, time_s: float) -> bool:
        """Go to the item that counts at a time; see `Source`."""
        self._expire(time_s)
        if not self._items:
            return False
        if len(self._items) > 1:
            for _ in range(self._after(time_s) - 1):
                self._drop_first()
        self._passed_s = self._items[0].time_s
        return True

    def take(self) -> Callable[[], Value]:
        """Take that item; see `Source`."""
        item = self._items[0]
        if not item.used:
            item.used = True
            self._counts.used += 1
        value = item.value
        return lambda: value

    def flush(self) -> bool:
        """Nothing waits for anything; see `Source`."""
        return False

    def restart(self) -> None:
        """Begin anew; see `Source`. What is there stays, until something newer comes or it is too old."""
        self._recent.clear()

    def renew(self, preprocessor: Preprocessor, encoder: Incremental | None) -> None:
        """Go on with another pipeline's preprocessing; texts that are there go through its tokenizer. See `Source`."""
        if preprocessor is self.preprocessor:
            return
        self.preprocessor = preprocessor
        for item in self._items:
            anew = self._item(item.made, item.time_s)
            item.made, item.value = anew.made, anew.value

    def close(self) -> None:
        """Count what waits as dropped."""
        while self._items:
            self._drop_first()

    @property
    def size_bytes(self) -> int:
        """Of the items' tensors."""
        return sum(item.size_bytes for item in self._items)

    def _item(self, made: _Prepared, time_s: float) -> _Item:
        if made.by is not self.preprocessor and made.text is not None:
            made = _prepared(made.text, self.preprocessor)
        return _Item(made, Value(made.values, time_s, next(self._numbers)))

    def _after(self, time_s: float) -> int:
        """Return how many items are not newer than a time."""
        return bisect_right(self._items, time_s, key=lambda item: item.time_s)

    def _expire(self, now_s: float) -> None:
        while self._items and now_s - self._items[0].time_s > self._max_age_s:
            self._drop_first(stale=True)

    def _drop_first(self, *, stale: bool = False) -> None:
        if not self._items.pop(0).used:
            self._counts.drop(stale=stale)


def _prepared(raw: object, by: Preprocessor) -> _Prepared:
    values = {key: value.copy() for key, value in by(raw).items()}
    is_text = isinstance(raw, str) and isinstance(by.modality.preprocess, TextPreprocess)
    return _Prepared(values, by, str(raw) if is_text else None)
