r"""The one way of text to the terminal.

What a bundle, a device, a file or the command line says may be hostile: whatever could move the cursor, colour the
screen, reorder what is read or pass for a line of ours is written as an escape (`\x1b`, `\n`). So text goes out in
lines: what stands in one of them cannot end it.

Results go to stdout; that nobody takes them is an error. The rest goes to stderr; that nobody reads it is none.
"""

from __future__ import annotations

import io
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TextIO, cast

from edgefuse.errors import EdgefuseError

_UNSAFE = (
    "\x00-\x1f\x7f-\x9f"  # control characters, and those of the upper half: U+009B begins a sequence by itself
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # marks and overrides of direction
    "\u2028\u2029"  # ends of lines and paragraphs
    "\u00ad\u180e\u200b\u2060-\u2064\ufeff\U000e0000-\U000e007f"  # what is not seen: two names could look like one
    "\ufff9-\ufffb\ud800-\udfff"  # annotations; halves of pairs, as in file names that are not UTF-8
)
_UNSAFE_CHARACTER = re.compile(f"[{_UNSAFE}]")
_UNSAFE_IN_JSON = re.compile(f"[{_UNSAFE}]".replace("\x00-\x1f", "\x00-\x09\x0b-\x1f"))  # lines are the format's own


def escaped(text: str) -> str:
    """Return text as one line that does nothing to a terminal."""
    return _UNSAFE_CHARACTER.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def escaped_json(text: str, encoding: str) -> str:
    """Return a JSON document with the same content, whose strings do nothing to a terminal and fit an encoding."""
    text = _UNSAFE_IN_JSON.sub(lambda found: _as_json(found[0]), text)
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return "".join(c if c.isascii() else _as_json(c) for c in text)
    return text


def _as_json(character: str) -> str:
    pair = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{pair[start : start + 2].hex()}" for start in range(0, len(pair), 2))


def put(lines: Iterable[str]) -> None:
    """Write lines to stdout.

    Raises:
        EdgefuseError: if stdout is closed or full.
        ReaderGone: if its reader has gone.
    """
    with _delivering() as stdout:
        stdout.write("".join(_fitting(escaped(line), stdout) + "\n" for line in lines))


def put_json(document: str) -> None:
    """Write a JSON document to stdout; errors are those of `put`."""
    with _delivering() as stdout:
        stdout.write(escaped_json(document, stdout.encoding or "utf-8") + "\n")


def flush() -> None:
    """Write out what stdout holds back; errors are those of `put`."""
    if sys.stdout is not None:
        with _delivering() as stdout:
            stdout.flush()


@contextmanager
def _delivering() -> Iterator[TextIO]:
    if sys.stdout is None:
        raise _undeliverable("it is closed")
    try:
        yield sys.stdout
    except BrokenPipeError as error:
        raise ReaderGone from error
    except OSError as error:
        raise _undeliverable(error.strerror or str(error)) from error


def _undeliverable(reason: str) -> EdgefuseError:
    return EdgefuseError(
        "the result cannot be written to stdout", got=reason, fix="let it go to a file with room, or to /dev/null"
    )


def complain(*lines: str) -> None:
    """Write lines to stderr, if it takes them."""
    _Complaints().write("".join(escaped(line) + "\n" for line in lines))


def quoted(text: str) -> list[str]:
    """Return the lines of a text of several (a traceback), set in so that none of them looks like one of ours."""
    return [f"  {line}" for line in text.split("\n") if line]


def complaints() -> TextIO:
    """Return stderr as a stream that neither fails nor is closed, for text that is escaped already."""
    return cast(TextIO, _Complaints())


class ReaderGone(Exception):  # noqa: N818 - no error: whoever read stdout has read enough
    """The reader of stdout has gone."""


class _Complaints(io.TextIOBase):
    def write(self, text: str) -> int:
        if (stream := sys.stderr) is not None:
            with suppress(OSError):
                stream.write(_fitting(text, stream))
                stream.flush()
        return len(text)

    def isatty(self) -> bool:
        return sys.stderr is not None and sys.stderr.isatty()


def _fitting(text: str, stream: TextIO) -> str:
    """Return text that a stream's encoding can spell: an escape stands for what it lacks."""
    if text.isascii():
        return text
    encoding = stream.encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def open_closed_streams() -> None:
    """Put the null device where a standard stream is closed, or else the next file that is opened takes its place."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number


def abandon() -> None:
    """Let the streams that cannot be written end in the null device, as the interpreter flushes them at its end."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            with suppress(OSError):  # a stream without a file
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream.fileno())
                os.close(nowhere)


@contextmanager
def messages() -> Iterator[None]:
    """Write log records and Python's warnings to stderr within the block."""
    handler = _Handler()
    handler.setFormatter(_Formatter("%(levelname)s: %(message)s"))
    root, before = logging.getLogger(), warnings.showwarning
    root.addHandler(handler)
    warnings.showwarning = _show_warning
    try:
        yield
    finally:
        warnings.showwarning = before
        root.removeHandler(handler)


def _show_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: object, **__: object
) -> None:
    complain(f"{category.__name__}: {message} ({os.path.basename(filename)}:{lineno})")  # noqa: PTH119 - a frame's name


class _Formatter(logging.Formatter):
    """Formats a record as one line, and the traceback that belongs to it as lines."""

    def format(self, record: logging.LogRecord) -> str:
        record.message = record.getMessage()
        details = self.formatException(record.exc_info) if record.exc_info else record.exc_text or ""
        lines = [self.formatMessage(record), *quoted(details), *quoted(record.stack_info or "")]
        return "\n".join(map(escaped, lines))


class _Handler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self.format(record)
        except (KeyError, TypeError, ValueError):  # arguments that do not fit the message
            text = f"WARNING: a message of '{escaped(record.name)}' cannot be shown"
        complaints().write(text + "\n")
