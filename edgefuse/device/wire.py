"""A command that talks to a device, and its streams: every wait has an end, and what comes is not kept without bound.

The device may be slow, gone, broken or hostile. Its streams are read and written only as far as they go without
waiting, and each wait for more of that has a deadline.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import IO

_CHUNK = 1 << 16
_KEPT = 1 << 14
_CHUNKS = 16
_GOODBYE_SECONDS = 15.0
_TICK_SECONDS = 0.02
_CLOSED = -1  # no stream: the number of a closed one may be another's by now


class Silence(Exception):  # noqa: N818 - what happened, for the session to make an error of
    """A deadline has passed: nothing came, or nothing was taken."""


class Flood(Exception):  # noqa: N818
    """More came than there can be."""


class End(Exception):  # noqa: N818
    """The other side has closed the stream."""


class Excerpt:
    """The beginning and the end of a text of any length."""

    def __init__(self) -> None:
        self._head = b""
        self._tail = b""

    def add(self, data: bytes) -> None:
        """Append to the text."""
        room = _KEPT - len(self._head)
        self._head += data[:room]
        self._tail = (self._tail + data[room:])[-_KEPT:]

    def text(self) -> str:
        """Return what is left of it."""
        gap = "\n" if len(self._tail) == _KEPT else ""
        return self._head.decode(errors="replace") + gap + self._tail.decode(errors="replace")


class Wire:
    """A running command, in a session of its own: an interrupt from the keyboard is not for it.

    Attributes:
        complaint: what the command wrote to stderr.
        printed: what was skipped on its stdout.
        killed: whether it had to be ended.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env=environment,
            start_new_session=True,
        )
        found = (self._process.stdin, self._process.stdout, self._process.stderr)
        self._streams = [stream for stream in found if stream is not None]  # none is: they are pipes
        self._in, self._out, self._err = (stream.fileno() for stream in self._streams)
        for number in (self._in, self._out, self._err):
            os.set_blocking(number, False)
        self._sending = threading.Lock()
        self._heard = bytearray()
        self._complains = True
        self.complaint, self.printed, self.killed = Excerpt(), Excerpt(), False

    def send(self, parts: Iterable[bytes], silence_seconds: float, deadline: float) -> None:
        """Write data.

        Args:
            parts: to be written one after the other.
            silence_seconds: how long the other side may take nothing of it.
            deadline: on the monotonic clock, when it must be through.

        Raises:
            Silence: if it does not take it in time.
            End: if it has closed the stream.
        """
        with self._sending:
            for part in parts:
                self._write(memoryview(part), silence_seconds, deadline)

    def nudge(self, sign: bytes) -> None:
        """Write a byte from another thread, unless it would have to wait; what is being sent is a sign by itself."""
        if self._sending.acquire(blocking=False):
            try:
                with suppress(OSError):
                    os.write(self._in, sign)
            finally:
                self._sending.release()

    def skip(self, mark: bytes, most: int, deadline: float) -> None:
        """Read past a mark.

        Args:
            mark: to find.
            most: bytes before it.
            deadline: on the monotonic clock, in seconds.

        Raises:
            Silence: if it does not come before the deadline.
            Flood: if it does not come within `most` bytes.
            End: if the stream ends before.
        """
        skipped = 0
        while (place := self._heard.find(mark)) < 0:
            surplus = max(0, len(self._heard) - len(mark) + 1)
            skipped += surplus
            self._drop(surplus)
            if skipped > most:
                raise Flood
            try:
                self._hear(deadline)
            except (End, Silence):
                self._drop(len(self._heard))
                raise
        self._drop(place)
        del self._heard[: len(mark)]

    def line(self, most: int, silence_seconds: float, deadline: float) -> bytes:
        """Return the next line, without its end.

        Args:
            most: bytes of the line.
            silence_seconds: without a byte, at most.
            deadline: on the monotonic clock, in seconds.

        Raises:
            Silence: if nothing comes for so many seconds, or no whole line before the deadline.
            Flood: if it has more than `most` bytes.
            End: if the stream ends before the line does.
        """
        looked = 0
        while (place := self._heard.find(b"\n", looked)) < 0:
            looked = len(self._heard)
            if looked > most:
                raise Flood
            self._hear(_until(silence_seconds, deadline))
        found = bytes(self._heard[:place])
        del self._heard[: place + 1]
        return found

    def read(self, size: int, silence_seconds: float, deadline: float) -> bytes:
        """Return so many bytes; errors are those of `line`.

        Args:
            size: in bytes.
            silence_seconds: without a byte, at most.
            deadline: on the monotonic clock, in seconds.
        """
        while len(self._heard) < size:
            self._hear(_until(silence_seconds, deadline))
        found = bytes(self._heard[:size])
        del self._heard[:size]
        return found

    def end(self, patience_seconds: float) -> int:
        """Say goodbye, wait until the other side has cleaned up, and return the exit code.

        A command that does not go is ended, with what it has started: nothing of it stays.
        """
        if self._process.returncode is None:
            with self._sending:
                self._close(self._streams[:1])
                self._in = _CLOSED
            until = time.monotonic() + min(patience_seconds, _GOODBYE_SECONDS)
            while self._process.poll() is None and time.monotonic() < until:
                self._heard.clear()
                try:
                    self._hear(_until(_TICK_SECONDS, until))
                except Silence:
                    continue
                except End:
                    time.sleep(_TICK_SECONDS)
            self.killed = self._process.poll() is None
            self._complaints()
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._close(self._streams)
        self._out = self._err = _CLOSED
        return self._process.wait()

    def _write(self, left: memoryview, silence_seconds: float, deadline: float) -> None:
        until = _until(silence_seconds, deadline)
        while left:
            try:
                left = left[os.write(self._in, left[:_CHUNK]) :]
                until = _until(silence_seconds, deadline)
            except BlockingIOError:
                self._wait(self._in, select.POLLOUT, until)
            except OSError as error:
                raise End from error

    def _close(self, streams: Sequence[IO[bytes]]) -> None:
        for stream in streams:
            with suppress(OSError):
                stream.close()

    def _drop(self, size: int) -> None:
        self.printed.add(bytes(self._heard[:size]))
        del self._heard[:size]

    def _hear(self, until: float) -> None:
        """Read what has come, or else wait for it."""
        while True:
            try:
                data = os.read(self._out, _CHUNK)
            except BlockingIOError:
                self._wait(self._out, select.POLLIN, until)
                continue
            except OSError as error:
                raise End from error
            if not data:
                raise End
            self._heard += data
            return

    def _wait(self, stream: int, event: int, until: float) -> None:
        """Wait until a stream is ready; meanwhile take what is complained."""
        poll = select.poll()
        poll.register(stream, event)
        while True:
            if self._complains:
                poll.register(self._err, select.POLLIN)
            ready = dict(poll.poll(max(0.0, 1e3 * (until - time.monotonic()))))
            if self._err in ready and not self._complaints():
                poll.unregister(self._err)
            if stream in ready:
                return
            if time.monotonic() >= until:
                raise Silence

    def _complaints(self) -> bool:
        """Take what is complained, a part of it if it is much; False once nothing can come any more."""
        with suppress(BlockingIOError):
            for _ in range(_CHUNKS):
                if not self._complains:
                    break
                data = os.read(self._err, _CHUNK)
                self.complaint.add(data)
                self._complains = bool(data)
        return self._complains


def _until(silence_seconds: float, deadline: float) -> float:
    return min(time.monotonic() + silence_seconds, deadline)
