"""A local control command: one line of JSON over a unix socket asks a running process for another bundle.

    {"bundle": "/srv/models/new.edgefuse", "digest": "9f2c..."}      (`bundle` null: the same path again)
    {"ok": false, "said": "the bundle '/srv/models/new.edgefuse' is refused: ..."}

The socket's file has the mode 0600 before anyone can connect: whoever may write to it is the user who runs the process
(or root). One request at a time; a message is bounded by bytes and by time. There is no other way in, and no way out:
nothing here speaks to the network.
"""

from __future__ import annotations

import os
import selectors
import socket
import stat
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Protocol

import msgspec

from edgefuse.errors import BundleError, InputError, cited
from edgefuse.files import KINDS, reason
from edgefuse.typed_json import decode

MAX_MESSAGE_BYTES = 16_384
MESSAGE_SECONDS = 5.0
"""In which a message must have come, whatever the pieces it comes in."""
_PAUSE_SECONDS = 0.1


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is asked for.

    Attributes:
        bundle: the absolute path of a bundle; that of the one that runs if None.
        digest: that it must have; the one pinned before if None.
    """

    bundle: str | None = None
    digest: str | None = None


class Answer(msgspec.Struct, frozen=True):
    """Whether it was done, and in a sentence what runs now, or why not."""

    ok: bool
    said: str


class Swapping(Protocol):
    """What is controlled: a `Live`."""

    @property
    def path(self) -> Path:
        """Of the bundle that runs."""

    @property
    def digest(self) -> str:
        """Of the bundle that runs."""

    def try_swap(self, path: str | None = None, digest: str | None = None) -> str:
        """Swap, and return why not, or nothing."""


class Control:
    """Listens until it is closed, in a thread of its own; made by `Live.listen`.

    Args:
        live: that is swapped.
        path: of the socket. One that a process left behind that is gone is replaced; anything else is not touched.

    Raises:
        InputError: a process listens there, there is something else, the system does not allow it or has no unix
            sockets (Windows).
    """

    def __init__(self, live: Swapping, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).absolute()
        self._live = live
        self._process = os.getpid()
        self._listener = bound(self.path)
        try:
            self._mine = identity(self.path)
            self._wake, self._woken = socket.socketpair()
        except OSError as error:
            self._listener.close()
            self.path.unlink(missing_ok=True)
            raise _not_made(self.path, reason(error)) from error
        self._thread = threading.Thread(target=self._serve, name="edgefuse-control", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End listening, after the request that is under way, and remove the socket; closing twice is harmless."""
        if self._thread.is_alive():
            self._wake.send(b".")
            self._thread.join()
        for one in (self._listener, self._wake, self._woken):
            one.close()
        with suppress(OSError):  # it is neither a forked child's to remove, nor that of a process started since
            if self._process == os.getpid() and identity(self.path) == self._mine:
                self.path.unlink()

    def __enter__(self) -> Control:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _serve(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            while self._woken not in {key.fileobj for key, _ in selector.select()}:
                try:
                    connection, _ = self._listener.accept()
                except OSError:  # whoever asked is gone again, or there is no descriptor left
                    time.sleep(_PAUSE_SECONDS)
                    continue
                with connection, suppress(OSError):
                    connection.sendall(_encoded(self._answer(connection)))

    def _answer(self, connection: socket.socket) -> Answer:
        try:
            request = _request(_line(connection, MESSAGE_SECONDS))
        except InputError as error:
            return _told(False, str(error))
        if refused := self._live.try_swap(request.bundle, request.digest):
            return _told(False, refused)
        return _told(True, f"{self._live.path} runs, digest {self._live.digest}")


def ask(path: str | os.PathLike[str], bundle: str | None, digest: str | None, *, timeout_seconds: float = 600.0) -> str:
    """Ask the process that listens at a socket for another bundle, and return what it says it runs.

    Args:
        path: of the socket.
        bundle: the absolute path of a bundle; that of the one that runs if None.
        digest: that it must have, or None.
        timeout_seconds: in which it must have answered.

    Raises:
        BundleError: it refuses the bundle, with its sentence; the old one stays.
        InputError: nothing listens there, or what does gives no such answer, or not in time.
    """
    try:
        line = _encoded(Request(bundle, digest))
    except UnicodeEncodeError:
        raise InputError("the path of the bundle cannot be sent", got=ascii(bundle), expected="UTF-8") from None
    _check_path(path)
    with _unix_socket() as connection:
        try:
            connection.settimeout(timeout_seconds)
            connection.connect(os.fspath(path))
            connection.sendall(line)
        except OSError as error:
            raise InputError(
                f"no process answers at the socket '{os.fspath(path)}'",
                got=reason(error),
                expected="one that called live.listen",
            ) from error
        try:
            answer = decode(_line(connection, timeout_seconds), Answer)
        except (InputError, msgspec.MsgspecError, RecursionError) as error:
            raise InputError(
                f"the process at the socket '{os.fspath(path)}' gave no answer",
                got=cited(error),
                fix="look into its log: it may have ended, or be opening the bundle yet",
            ) from error
    if not answer.ok:
        raise BundleError(answer.said)
    return answer.said


def _check_path(path: str | os.PathLike[str]) -> None:
    """Refuse a NUL: Python hands such a path to the system, which takes what stands before it."""
    if "\0" in os.fspath(path):
        raise InputError("the path of a socket holds a NUL", got=repr(os.fspath(path)), expected="a path")


def _unix_socket() -> socket.socket:
    if not hasattr(socket, "AF_UNIX"):
        raise InputError("this system has no unix sockets", fix="call live.swap() in the process itself")
    return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)


def bound(path: Path) -> socket.socket:
    """Return a socket that listens at a path; nobody can connect before its mode is 0600.

    Raises:
        InputError: somebody else does, there is something else, or the system does not allow it or has none.
    """
    _check_path(path)
    listener = _unix_socket()
    try:
        _clear(path)
        listener.bind(os.fspath(path))
        path.chmod(stat.S_IRUSR | stat.S_IWUSR)
        listener.listen()
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise _not_made(path, reason(error)) from error
    except InputError:
        listener.close()
        raise
    return listener


def _not_made(path: Path, got: str, fix: str | None = None) -> InputError:
    return InputError(f"the socket '{path}' cannot be made", got=got, fix=fix)


def _clear(path: Path) -> None:
    """Remove a socket at which nobody listens any more.

    Raises:
        InputError: somebody does, or it is none.
    """
    if not os.path.lexists(path):
        return
    mode = path.lstat().st_mode
    if not stat.S_ISSOCK(mode):
        kind = "a link" if stat.S_ISLNK(mode) else KINDS.get(stat.S_IFMT(mode), "a file")
        raise _not_made(path, f"{kind} there", fix="name another path")
    with _unix_socket() as probe:
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink()
        else:
            raise InputError(f"another process listens at '{path}'", fix="end it, or name another path")


def identity(path: Path) -> tuple[int, int]:
    """Return what tells a file from another one that is at its path later."""
    found = path.lstat()
    return found.st_dev, found.st_ino


def _request(line: bytes) -> Request:
    expected = '{"bundle": "/path", "digest": null}'
    try:
        request = decode(line, Request)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise InputError("this is no control message", got=str(error), expected=expected) from error
    if request.bundle is not None and not os.path.isabs(request.bundle):  # noqa: PTH117 - Path takes any string for a path
        raise InputError("the bundle's path is not absolute", got=repr(request.bundle), expected=expected)
    return request


def _told(ok: bool, said: str) -> Answer:
    """Return an answer; what is no UTF-8 in it, as a path may be, is told as `?`."""
    return Answer(ok, said.encode("utf-8", "replace").decode())


def _encoded(message: Request | Answer) -> bytes:
    return msgspec.json.encode(message) + b"\n"


def _line(connection: socket.socket, seconds: float) -> bytes:
    """Return the line that comes.

    Raises:
        InputError: it is too long, too slow, or ends too early.
    """
    until, data = time.monotonic() + seconds, bytearray()
    while not data.endswith(b"\n"):
        try:
            connection.settimeout(max(0.001, until - time.monotonic()))
            part = connection.recv(MAX_MESSAGE_BYTES + 1 - len(data))
        except OSError as error:
            raise InputError("a control message did not come", got=reason(error)) from error
        data += part
        if not part or len(data) > MAX_MESSAGE_BYTES or time.monotonic() > until:
            expected = f"<= {MAX_MESSAGE_BYTES} bytes in {seconds:g} seconds"
            raise InputError(
                "a control message is one line", got=f"{len(data)} bytes without its end", expected=expected
            )
    return bytes(data)
