"""What a stream has of one modality: the protocol that a ring buffer and a latest item keep."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple, Protocol

from edgefuse.runtime.backends.backend import Array
from edgefuse.runtime.incremental import Incremental
from edgefuse.runtime.preprocess import Preprocessor


class Value(NamedTuple):
    """A modality at a time.

    Attributes:
        values: by key, as `Pipeline.infer` takes them.
        time_s: of its newest data.
        key: the same for the same content, and for no other of this modality: a sequence number.
        encoded: whether the values are features already.
    """

    values: Mapping[str, Array]
    time_s: float
    key: Hashable
    encoded: bool = False


class Source(Protocol):
    """What a stream has of one modality. All but `check` is called under the stream's lock.

    Attributes:
        preprocessor: of the modality, in the bundle that runs now.
    """

    preprocessor: Preprocessor

    def check(self, raw: object) -> tuple[Any, float]:
        """Return what was pushed as `push` takes it, and how many seconds it lasts.

        Raises:
            InputError: if it cannot be used.
            MissingExtraError: if it needs a library that is not installed.
        """

    def push(self, item: Any, time_s: float, timed: bool) -> float | None:
        """Take an item; return the time at which it ends, as predictions go by it: None if it is late, or a duplicate.

        Args:
            item: from `check`.
            time_s: of the stream, at which it begins.
            timed: whether that is the time of its data, and not of its arrival.
        """

    def advance(self, time_s: float) -> None:
        """Note that the stream has come to a time: nothing waits longer than it may for what is missing."""

    @property
    def ready_s(self) -> float | None:
        """The time up to which it is complete: nothing older is taken any more. None before the first item."""

    @property
    def start_s(self) -> float | None:
        """The time at which it began. None before the first item."""

    def seek(self, time_s: float) -> bool:
        """Go to a time, and forget what is too old then; return whether there is something to take."""

    def take(self) -> Callable[[], Value]:
        """Count what there is at the time of `seek` as used, and return what prepares it.

        It is called without the lock, by one thread at a time, before the next is taken.
        """

    def flush(self) -> bool:
        """Nothing more comes: what waits for something that is missing need not wait. Return whether there was any."""

    def restart(self) -> None:
        """Begin anew: what comes next does not follow on what was there."""

    def renew(self, preprocessor: Preprocessor, encoder: Incremental | None) -> None:
        """Go on with another pipeline.

        Args:
            preprocessor: of the modality, maybe of another bundle.
            encoder: chunk by chunk, of its rung; None if it has none.
        """

    def close(self) -> None:
        """Count what waits as dropped."""

    @property
    def size_bytes(self) -> int:
        """Of all that it keeps."""
