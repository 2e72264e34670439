"""The child of a fork: it has neither the threads of the inference libraries nor the state of their locks.

A child process that `os.fork` makes (a web server that loads first and forks then, `multiprocessing` by its old
default) has its parent's memory and one thread. An opened file whose pool has lost its threads waits for them for ever:
when it runs, and also when it is freed. So in the child everything that was opened before is *inherited*: it refuses to
run, and is never freed. The child opens the bundle again.

For that to be safe, the libraries' own locks (of an arena, say) must be free in the child. So a fork waits until the
calls of pipelines that are under way have ended, at most for `PATIENCE_SECONDS`, and later ones wait for the fork.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
import weakref
from threading import Lock, RLock, get_ident

from edgefuse.errors import BackendError

PATIENCE_SECONDS = 5.0


class Guard:
    """Stands around the calls of something that was opened; held by one thread at a time.

    Attributes:
        lock: to be held during a call.
        inherited: whether this process was forked from the one that made the guard.
    """

    __slots__ = ("__weakref__", "inherited", "lock")

    def __init__(self) -> None:
        self.lock = RLock()  # a thread that forks in the middle of its own call need not wait for itself
        self.inherited = False
        _remember(_guards, self)

    def check(self) -> None:
        """Refuse to go on in a forked child.

        Raises:
            BackendError: if this is one.
        """
        if self.inherited:
            raise BackendError(
                "this pipeline was opened before a fork, which inference libraries do not survive",
                got=f"a call in the child process {os.getpid()}",
                fix="open the bundle again in the child, or start processes with multiprocessing's 'spawn'",
            )


def outlive(opened: object) -> None:
    """Never free an opened file in a child that is forked while it is open."""
    _remember(_opened, opened)


# By identity, as sets of weak references cannot be copied while another thread adds to them.
_guards: dict[int, weakref.ref[Guard]] = {}
_opened: dict[int, weakref.ref[object]] = {}
_fork = Lock()
_held: list[RLock] = []
_forking = 0
_immortal = ctypes.pythonapi.Py_IncRef
_immortal.argtypes, _immortal.restype = (ctypes.py_object,), None


def _remember(registry: dict[int, weakref.ref], item: object) -> None:  # type: ignore[type-arg]
    key = id(item)
    registry[key] = weakref.ref(item, lambda _: registry.pop(key, None))


def _before() -> None:
    """Wait for the calls that are under way. Threads that fork at the same time do so one after the other."""
    global _forking
    deadline = time.monotonic() + PATIENCE_SECONDS
    if _forking == get_ident() or not _fork.acquire(timeout=PATIENCE_SECONDS):
        return
    _forking = get_ident()
    for reference in list(_guards.values()):
        guard = reference()
        if guard is not None and guard.lock.acquire(timeout=max(0.0, deadline - time.monotonic())):
            _held.append(guard.lock)


def _after_in_parent() -> None:
    global _forking
    if _forking != get_ident():
        return
    _forking = 0
    while _held:
        _held.pop().release()
    _fork.release()


def _after_in_child() -> None:
    """Replace the locks, whoever held them, and keep what was opened for as long as this process lives."""
    global _fork, _forking
    _fork, _forking = Lock(), 0
    _held.clear()
    for guard in [guard for reference in list(_guards.values()) if (guard := reference()) is not None]:
        guard.lock, guard.inherited = RLock(), True
    for opened in [opened for reference in list(_opened.values()) if (opened := reference()) is not None]:
        _immortal(opened)
    _guards.clear()
    _opened.clear()


if sys.platform != "win32":
    os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
