"""The feature cache: what a stage made of the last few inputs, found again by their exact content, or by a key."""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Mapping
from weakref import ref

import numpy as np

from edgefuse.runtime.backends.backend import Array, Session

_Content = tuple[tuple[str, str, tuple[int, ...], bytes], ...]
"""(port, type, shape, bytes) of every feed: compared in full, so that a hit cannot be wrong."""


class FeatureCache:
    """Keeps the outputs of stages for the last few distinct inputs of each session.

    A camera gives one frame while a microphone gives ten chunks: the frame's features are then computed once. What a
    session made is kept with it, so that rungs which share an encoder's file share its features, and they are freed
    when the file is. What overflowed is not kept. Not safe for concurrent calls, unless they are of the sessions of
    different modalities; an open bundle holds its lock.

    Args:
        entries: inputs kept per session; 0 switches the cache off.
    """

    def __init__(self, entries: int = 4) -> None:
        self.entries = entries
        self._counts: dict[str, _Counts] = {}

    @property
    def hits(self) -> int:
        """How many runs were answered from what was kept."""
        return sum(one.hits for one in self._counts.values())

    @property
    def misses(self) -> int:
        """How many were not."""
        return sum(one.misses for one in self._counts.values())

    def attach(self, session: Session, modality: str = "", twin: Session | None = None) -> Session:
        """Return a session that remembers what it made (itself if the cache is off).

        Args:
            session: of a file.
            modality: of the stage that it was opened for, under which its runs are counted.
            twin: another session of that file, with which it shares what is remembered; one runs at a time.
        """
        if self.entries <= 0:
            return session
        counts = self._counts.setdefault(modality, _Counts())
        return CachedSession(session, self.entries, counts, twin.kept if isinstance(twin, CachedSession) else [])


class _Counts:
    """Hits and misses of a modality: it runs in one thread at a time, where several are encoded side by side."""

    __slots__ = ("hits", "misses")

    def __init__(self) -> None:
        self.hits = self.misses = 0


class CachedSession:
    """A session, and what it made of its last inputs; the most recently used first.

    Attributes:
        session: what runs.
        kept: what it made, by content.
    """

    def __init__(
        self, session: Session, entries: int, counts: _Counts, kept: list[tuple[_Content, dict[str, Array]]]
    ) -> None:
        self.session = session
        self.kept = kept
        self._entries = entries
        self._counts = counts

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Return the outputs for these feeds, run or remembered; they are read-only. See `Session.run`."""
        content = _content(feeds)
        kept = self.kept
        for position, (known, outputs) in enumerate(kept):
            if known == content:
                self._counts.hits += 1
                if position:
                    kept.insert(0, kept.pop(position))
                return outputs
        self._counts.misses += 1
        outputs = self.session.run(feeds)
        for value in outputs.values():
            value.setflags(write=False)
        if all(_is_finite(value) for value in outputs.values()):
            kept.insert(0, (content, outputs))
            del kept[self._entries :]
        return outputs

    def run_anew(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Return the outputs for feeds that nothing is remembered of, and that will not come again: a miss."""
        self._counts.misses += 1
        return self.session.run(feeds)

    def knows(self, feeds: Mapping[str, Array]) -> bool:
        """Tell whether the outputs for these feeds are remembered; this is counted as nothing."""
        content = _content(feeds)
        return any(known == content for known, _ in self.kept)


def _content(feeds: Mapping[str, Array]) -> _Content:
    return tuple((port, value.dtype.str, value.shape, value.tobytes()) for port, value in feeds.items())


class Kept:
    """The features of each modality's last input in one stream, found again by a key of that input.

    Other streams over the same bundle do not push them out, and no content is compared: a stream says under which key
    each modality's values stand, and never gives one to two contents. Where another rung runs, its stages run anew.
    Not safe for concurrent calls.

    Args:
        passing: modalities that go on, as sound does: their inputs are not looked for by content, either.

    Attributes:
        keys: by modality; what has none is not kept.
    """

    def __init__(self, passing: Collection[str] = ()) -> None:
        self._passing = frozenset(passing)
        self.keys: Mapping[str, Hashable] = {}
        self._made: dict[str, tuple[ref[object], Hashable, Mapping[str, Array]]] = {}

    def found(self, by: object) -> dict[str, Mapping[str, Array]]:
        """Return, by modality, the features of those whose inputs are as they were; `by` is what made them."""
        made = self._made
        return {
            name: known[2]
            for name, key in self.keys.items()
            if (known := made.get(name)) is not None and known[1] == key and known[0]() is by
        }

    def keep(self, modality: str, by: object, features: Mapping[str, Array]) -> None:
        """Keep what the stages of a modality gave, in the place of what they gave before.

        Args:
            modality: that has a key.
            by: what made them.
            features: by key of the graph.
        """
        if modality in self.keys:
            self._made[modality] = ref(by), self.keys[modality], features

    def run(self, modality: str, session: Session, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Return the outputs of a stage; see `Session.run`.

        Args:
            modality: of the stage.
            session: that runs it.
            feeds: arrays under port names.
        """
        if modality in self._passing and isinstance(session, CachedSession):
            return session.run_anew(feeds)
        return session.run(feeds)

    @property
    def size_bytes(self) -> int:
        """Of all that is kept."""
        return sum(value.nbytes for _, _, features in list(self._made.values()) for value in features.values())


def _is_finite(value: Array) -> bool:
    """Whether a feature is finite; one pass without a copy, and that squares may overflow costs no more than a hit."""
    return value.dtype.kind != "f" or math.isfinite(np.vdot(value, value))  # type: ignore[arg-type] # any type
