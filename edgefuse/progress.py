"""How long work reports that it moves on, and how that is drawn on a terminal or written to a log."""

from __future__ import annotations

import shutil
import time
from collections import OrderedDict
from typing import Protocol, TextIO

_BAR_WIDTH = 24
_REDRAW_SECONDS = 0.1
_MAX_WORKS = 64


class Progress(Protocol):
    """Called whenever a piece of work is done; cheap enough to be called for every item."""

    def __call__(self, done: int, total: int, what: str) -> None:
        """Take note that `done` of `total` pieces of `what` are done; a total of 0 is one that nobody knows."""


def silent(done: int, total: int, what: str) -> None:
    """Show nothing: the progress of library calls that were not given one.

    Args:
        done: pieces.
        total: pieces; 0 if it is unknown.
        what: the pieces are.
    """


class Pace:
    """Says which reports are worth passing on: at most one in `seconds` unless the work changes or ends."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._passed_at = 0.0
        self._what = ""

    def due(self, done: int, total: int, what: str) -> bool:
        """Tell whether to pass this report on, and count it as passed if so.

        Args:
            done: pieces.
            total: pieces; 0 if it is unknown.
            what: the pieces are.
        """
        now = time.monotonic()
        if what == self._what and not done >= total > 0 and now - self._passed_at < self._seconds:
            return False
        self._passed_at, self._what = now, what
        return True


class Bar:
    """A single line that is drawn over itself on a terminal; `close` leaves the cursor at the start of a clean line."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._width = 0
        self._pace = Pace(_REDRAW_SECONDS)

    def __call__(self, done: int, total: int, what: str) -> None:
        """Draw the line anew, at most ten times a second unless the work changes or ends."""
        if not self._pace.due(done, total, what):
            return
        filled = min(_BAR_WIDTH * done // max(total, 1), _BAR_WIDTH)
        bar = f" [{'#' * filled}{'.' * (_BAR_WIDTH - filled)}] {done}/{total}" if total else ""
        line = _cut(what, shutil.get_terminal_size().columns - 1 - len(bar)) + bar  # a line that breaks is not wiped
        self._stream.write("\r" + line.ljust(self._width))
        self._stream.flush()
        self._width = len(line)

    def close(self) -> None:
        """Wipe the line."""
        if self._width:
            self._stream.write("\r" + " " * self._width + "\r")
            self._stream.flush()
        self._width = 0


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: max(width - 1, 0)] + "…"


class Log:
    """Lines for a log file: when work begins, ends, or has gone on for `every_seconds` since its last line.

    Several works may go on at the same time, such as those of workers.
    """

    def __init__(self, stream: TextIO, every_seconds: float = 10.0) -> None:
        self._stream = stream
        self._every_seconds = every_seconds
        self._written: OrderedDict[str, tuple[float, int]] = OrderedDict()
        """When the last line of a work was written, and how much of it was done; of the last few works."""

    def __call__(self, done: int, total: int, what: str) -> None:
        """Write a line if one is due."""
        now = time.monotonic()
        written_at, before = self._written.get(what, (float("-inf"), 0))
        if done < before:  # the same work, begun anew
            written_at, before = float("-inf"), 0
        ended = done >= total > 0 and before < total
        if not ended and now - written_at < self._every_seconds:
            return
        self._written[what] = now, done
        self._written.move_to_end(what)
        if len(self._written) > _MAX_WORKS:
            self._written.popitem(last=False)
        self._stream.write((f"{what}: {done}/{total}" if total else what) + "\n")
        self._stream.flush()

    def close(self) -> None:
        """Do nothing: every line is complete."""


def on(stream: TextIO) -> Bar | Log:
    """Return a bar if the stream is a terminal and a sparse log otherwise; the caller closes it."""
    return Bar(stream) if stream.isatty() else Log(stream)
