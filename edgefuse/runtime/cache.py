"""The feature cache: what a stage made of the last few inputs, found again by their exact content."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from edgefuse.runtime.backends.backend import Array, Session

_Content = tuple[tuple[str, str, tuple[int, ...], bytes], ...]
"""(port, type, shape, bytes) of every feed: compared in full, so that a hit cannot be wrong."""


class FeatureCache:
    """Keeps the outputs of stages for the last few distinct inputs of each session.

    A camera gives one frame while a microphone gives ten chunks: the frame's features are then computed once. What a
    session made is kept with it, so that rungs which share an encoder's file share its features, and they are freed
    when the file is. Not safe for concurrent calls; an open bundle holds its lock. `hits` counts runs that were
    answered from what was kept, `misses` the others. What overflowed is not kept.

    Args:
        entries: inputs kept per session; 0 switches the cache off.
    """

    def __init__(self, entries: int = 4) -> None:
        self.entries = entries
        self.hits = 0
        self.misses = 0

    def attach(self, session: Session) -> Session:
        """Return a session that remembers what it made (itself if the cache is off)."""
        return CachedSession(session, self) if self.entries > 0 else session


class CachedSession:
    """A session, and what it made of its last inputs; the most recently used first."""

    def __init__(self, session: Session, cache: FeatureCache) -> None:
        self._session = session
        self._cache = cache
        self._kept: list[tuple[_Content, dict[str, Array]]] = []

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Return the outputs for these feeds, run or remembered; they are read-only. See `Session.run`."""
        content = tuple((port, value.dtype.str, value.shape, value.tobytes()) for port, value in feeds.items())
        kept = self._kept
        for position, (known, outputs) in enumerate(kept):
            if known == content:
                self._cache.hits += 1
                if position:
                    kept.insert(0, kept.pop(position))
                return outputs
        self._cache.misses += 1
        outputs = self._session.run(feeds)
        for value in outputs.values():
            value.setflags(write=False)
        if all(_is_finite(value) for value in outputs.values()):
            kept.insert(0, (content, outputs))
            del kept[self._cache.entries :]
        return outputs


def _is_finite(value: Array) -> bool:
    """Whether a feature is finite; one pass without a copy, and that squares may overflow costs no more than a hit."""
    return value.dtype.kind != "f" or math.isfinite(np.vdot(value, value))  # type: ignore[arg-type] # any type
