"""How long work reports that it moves on, and how that is drawn on a terminal or written to a log."""

from __future__ import annotations

import time
from typing import Protocol, TextIO

_BAR_WIDTH = 24
_REDRAW_SECONDS = 0.1


class Progress(Protocol):
    """Called whenever a piece of work is done; cheap enough to be called for every item."""

    def __call__(self, done: int, total: int, what: str) -> None:
        """Take note that `done` of `total` pieces of `what` are done; a total of 0 is one that nobody knows."""


def silent(done: int, total: int, what: str) -> None:
    """Show nothing: the progress of library calls that were not given one."""


class Bar:
    """A single line that is drawn over itself on a terminal; `close` leaves the cursor at the start of a clean line."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._width = 0
        self._drawn_at = 0.0
        self._what = ""

    def __call__(self, done: int, total: int, what: str) -> None:
        """Draw the line anew, at most ten times a second unless the work changes or ends."""
        now = time.monotonic()
        ended = done >= total > 0
        if what == self._what and not ended and now - self._drawn_at < _REDRAW_SECONDS:
            return
        self._drawn_at, self._what = now, what
        filled = _BAR_WIDTH * done // max(total, 1)
        line = f"{what} [{'#' * filled}{'.' * (_BAR_WIDTH - filled)}] {done}/{total}" if total else what
        self._stream.write("\r" + line.ljust(self._width))
        self._stream.flush()
        self._width = len(line)

    def close(self) -> None:
        """Wipe the line."""
        if self._width:
            self._stream.write("\r" + " " * self._width + "\r")
            self._stream.flush()
        self._width = 0


class Log:
    """Lines for a log file: when work begins, ends, or has gone on for `every_seconds` since the last one."""

    def __init__(self, stream: TextIO, every_seconds: float = 10.0) -> None:
        self._stream = stream
        self._every_seconds = every_seconds
        self._written_at = 0.0
        self._what = ""
        self._done = 0

    def __call__(self, done: int, total: int, what: str) -> None:
        """Write a line if one is due."""
        now = time.monotonic()
        ended = done >= total > 0 and self._done < total
        if what == self._what and not ended and now - self._written_at < self._every_seconds:
            return
        self._written_at, self._what, self._done = now, what, done
        self._stream.write((f"{what}: {done}/{total}" if total else what) + "\n")
        self._stream.flush()

    def close(self) -> None:
        """Do nothing: every line is complete."""


def on(stream: TextIO) -> Bar | Log:
    """Return a bar if the stream is a terminal and a sparse log otherwise; the caller closes it."""
    return Bar(stream) if stream.isatty() else Log(stream)
