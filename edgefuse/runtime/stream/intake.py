"""What all modalities of a stream have taken in, on one time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from edgefuse.bundle.spec import Modality
from edgefuse.errors import InputError
from edgefuse.runtime.incremental import Incremental
from edgefuse.runtime.preprocess import Preprocessor
from edgefuse.runtime.stream.clock import Clock
from edgefuse.runtime.stream.counts import Counts
from edgefuse.runtime.stream.feed import Feed
from edgefuse.runtime.stream.latest import Latest
from edgefuse.runtime.stream.series import Series
from edgefuse.runtime.stream.source import Source, Value


class Intake:
    """The sources, clocks and counts of a stream's modalities, and the time of the stream: the newest of theirs.

    Not safe for concurrent calls; a stream holds its lock.

    Args:
        preprocessors: by modality, in the order of the model's.
        feeds: by modality how it comes in; what is left out comes as `Feed()` says.
        hop_s: between predictions; see `Series`.
        backlog: predictions that may wait.

    Attributes:
        sources: by modality.
        series: the modalities that come in steps.
        counts: by modality.
        time_s: of the stream; None before the first item.
        closed: whether nothing is taken any more.

    Raises:
        InputError: if a feed does not fit its modality.
        MissingExtraError: if sound has to be resampled, and soxr is not installed.
    """

    def __init__(
        self, preprocessors: Mapping[str, Preprocessor], feeds: Mapping[str, Feed], hop_s: float | None, backlog: int
    ) -> None:
        self.time_s: float | None = None
        self.closed = False
        self.counts = {name: Counts() for name in preprocessors}
        self._modalities = _modalities(preprocessors)
        self._required = {name for name, modality in self._modalities.items() if not modality.optional}
        self._reached_s = 0.0
        self._feeds = {name: feeds.get(name, Feed()) for name in preprocessors}
        self._clocks = {name: Clock(feed.jump_s) for name, feed in self._feeds.items()}
        self.series = [name for name, feed in self._feeds.items() if feed.is_series(self._modalities[name])]
        self.sources: dict[str, Source] = {
            name: Series(preprocessor, self._feeds[name], self.counts[name], hop_s, backlog)
            if name in self.series
            else Latest(preprocessor, self._feeds[name], self.counts[name])
            for name, preprocessor in preprocessors.items()
        }

    @property
    def size_bytes(self) -> int:
        """Of all buffers and items."""
        return sum(source.size_bytes for source in self.sources.values())

    def push(self, modality: str, item: Any, given_s: float | None, lasts_s: float, now_s: float) -> bool:
        """Take what a source has checked; return whether it is neither late nor a duplicate nor odd in time.

        Args:
            modality: its name.
            item: from `Source.check`.
            given_s: its time by the modality's clock; None if it ends now.
            lasts_s: its seconds.
            now_s: by the clock of this machine.
        """
        counts, clock, source = self.counts[modality], self._clocks[modality], self.sources[modality]
        counts.pushed += 1
        timed = given_s is not None
        began_s = now_s - lasts_s if given_s is None else given_s
        time_s, jumped = clock.read(began_s, self.time_s, now_s - self._reached_s)
        counts.jumps = clock.jumps
        if time_s is None:
            counts.late += 1
            return False
        if jumped:
            source.restart()
        ends_s = source.push(item, time_s, timed)
        if ends_s is None:
            return False
        if self.time_s is None or ends_s > self.time_s:
            self.time_s, self._reached_s = ends_s, now_s
            for name in self.series:
                self.sources[name].advance(ends_s)
        return True

    def refuse(self, modality: str) -> None:
        """Count what is no valid input."""
        self.counts[modality].pushed += 1
        self.counts[modality].drop(refused=True)

    def take(self, time_s: float, without: frozenset[str]) -> dict[str, Callable[[], Value]] | None:
        """Take what there is at a time, in the order of the model's modalities.

        None if that is not enough, or it is closed.

        Args:
            time_s: of the stream.
            without: modalities that are left out, wherever others are there.
        """
        if self.closed:
            return None
        there = [name for name, source in self.sources.items() if source.seek(time_s)]
        chosen = [name for name in there if name not in without] or there if without else there
        if not chosen or not self._required.issubset(chosen):
            return None
        return {name: self.sources[name].take() for name in chosen}

    def flush(self) -> list[str]:
        """Nothing more comes: what waits for something that is missing need not wait. Return of which there was any."""
        return [name for name, source in self.sources.items() if source.flush()]

    @property
    def incremental(self) -> list[str]:
        """The modalities that are to be encoded chunk by chunk, if they can be."""
        return [name for name, feed in self._feeds.items() if feed.is_incremental(self._modalities[name])]

    def follow(self, preprocessors: Mapping[str, Preprocessor], encoders: Mapping[str, Incremental]) -> None:
        """Go on with another pipeline.

        Args:
            preprocessors: by modality.
            encoders: chunk by chunk, at its rung, by modality.

        Raises:
            InputError: if it has other modalities.
        """
        if (modalities := _modalities(preprocessors)) != self._modalities:
            raise InputError(
                "the bundle that runs now has other inputs than the stream was opened for",
                got=", ".join(modalities),
                expected=f"{', '.join(self._modalities)}, each as it was",
                fix="open another stream",
            )
        for name, source in self.sources.items():
            source.renew(preprocessors[name], encoders.get(name))

    def close(self) -> None:
        """Count what waits as dropped, and let go of it."""
        self.closed = True
        for source in self.sources.values():
            source.close()


def _modalities(preprocessors: Mapping[str, Preprocessor]) -> dict[str, Modality]:
    return {name: preprocessor.modality for name, preprocessor in preprocessors.items()}
