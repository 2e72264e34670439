"""Flush denormal numbers to zero while a runtime computes, and only then.

Masked attention leaves weights such as exp(-100) behind its softmax. x86 computes on these denormal numbers some fifty
times slower (measured in ONNX Runtime: 145 instead of 13 microseconds for one product of weights and values). XNNPACK
flushes them by itself. ONNX Runtime can, too, but in the thread that opens the first session alone, and for good:
everything that this thread computes afterwards is flushed, the user's numbers as well. Here the calling thread's
floating-point environment is changed before a call and restored after it; threads that a runtime starts inherit it.

The environment is `fenv_t` of the C library. Where its layout is not known, nothing is flushed.
"""

from __future__ import annotations

import ctypes
import platform
import sys
import threading
from collections.abc import Callable
from functools import cache
from types import TracebackType
from typing import TypeAlias

_Change: TypeAlias = Callable[[object], int]

_FTZ_DAZ = 1 << 15 | 1 << 6  # MXCSR: flush results to zero, take denormal operands as zero
_FZ = 1 << 24  # FPCR: both
# Machine to the index of the 32-bit word of fenv_t (glibc, musl) that holds the mode, and the bits to set there.
_LAYOUTS = {"x86_64": (7, _FTZ_DAZ), "aarch64": (0, _FZ)}
_WORDS = 16  # more than any fenv_t has


class _Thread(threading.local):
    """Whether the calling thread is within such a context: asked for a tenth of what changing the mode costs."""

    flushing = False


_THREAD = _Thread()


class Flushed:
    """A context in which the calling thread flushes denormal numbers; not shared by threads.

    Within another one it does nothing: a graph enters one for all its stages, whose sessions have theirs.
    """

    def __init__(self) -> None:
        words = ctypes.c_uint32 * _WORDS
        self._saved, self._flushing = words(), words()
        self._outermost = False
        self._get, self._set, layout = _environment()
        self._get(self._flushing)
        if layout is not None:
            word, bits = layout
            self._flushing[word] |= bits

    def __enter__(self) -> None:
        if _THREAD.flushing:
            return
        self._get(self._saved)
        self._set(self._flushing)
        self._outermost = _THREAD.flushing = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._outermost:
            self._outermost = _THREAD.flushing = False
            self._set(self._saved)


@cache
def _environment() -> tuple[_Change, _Change, tuple[int, int] | None]:
    """Return what reads and sets the environment, and where the mode is in it; functions that do nothing elsewhere."""
    layout = _LAYOUTS.get(platform.machine()) if sys.platform == "linux" else None
    if layout is None:
        return _nothing, _nothing, None
    library = ctypes.CDLL(None)  # the interpreter is linked with the mathematical library
    return library.fegetenv, library.fesetenv, layout


def _nothing(_: object) -> int:
    return 0
