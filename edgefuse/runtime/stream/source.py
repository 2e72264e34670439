"""What a stream has of one modality: the protocol that a ring buffer, a latest item or an encoder with state keeps."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from edgefuse.runtime.backends.backend import Array
from edgefuse.runtime.preprocess import Preprocessor


@dataclass(frozen=True, slots=True)
class Value:
    """A modality at a time.

    Attributes:
        values: by key, as `Pipeline.infer` takes them.
        time_s: of its newest data.
        key: the same for the same content, and for no other of this modality: a sequence number.
    """

    values: Mapping[str, Array]
    time_s: float
    key: Hashable


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

    def push(self, item: Any, time_s: float) -> bool:
        """Take an item that begins at a time of the stream; return whether it is neither late nor a duplicate."""

    @property
    def ready_s(self) -> float | None:
        """The time up to which it is complete: nothing older is taken any more. None before the first item."""

    @property
    def start_s(self) -> float | None:
        """The time at which it began. None before the first item."""

    def value(self, time_s: float) -> Value | None:
        """Return what there is at a time, and count it as used; None if that is nothing, or too old."""

    def restart(self) -> None:
        """Begin anew: what comes next does not follow on what was there."""

    def renew(self, preprocessor: Preprocessor) -> None:
        """Go on with the preprocessing of another bundle, of the same modality."""

    def close(self) -> None:
        """Count what waits as dropped."""

    @property
    def size_bytes(self) -> int:
        """Of all that it keeps."""
