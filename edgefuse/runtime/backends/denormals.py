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
from types import TracebackType

_FTZ_DAZ = 1 << 15 | 1 << 6  # MXCSR: flush results to zero, take denormal operands as zero
_FZ = 1 << 24  # FPCR: both
# Machine to the index of the 32-bit word of fenv_t (glibc, musl) that holds the mode, and the bits to set there.
_LAYOUTS = {"x86_64": (7, _FTZ_DAZ), "aarch64": (0, _FZ)}
_WORDS = 16  # more than any fenv_t has


class _Thread(threading.local):
    """Whether the calling thread is within such a context: asked for a tenth of what changing the mode costs."""

    flushing = False


class Flushed:
    """A context in which the calling thread flushes denormal numbers; not shared by threads.

    Within another one it does nothing: a graph enters one for all its stages, whose sessions have theirs.
    """

    def __init__(self) -> None:
        words = ctypes.c_uint32 * _WORDS
        self._saved, self._flushing = words(), words()
        self._outermost = False
        self._get, self._set = _FEGETENV, _FESETENV
        self._get(self._flushing)
        if _LAYOUT is not None:
            word, bits = _LAYOUT
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


def _nothing(_: object) -> int:
    return 0


_THREAD = _Thread()
_LAYOUT = _LAYOUTS.get(platform.machine()) if sys.platform == "linux" else None
if _LAYOUT is not None:
    _LIBRARY = ctypes.CDLL(None)  # the interpreter is linked with the mathematical library
    _FEGETENV, _FESETENV = _LIBRARY.fegetenv, _LIBRARY.fesetenv
else:
    _FEGETENV, _FESETENV = _nothing, _nothing  # type: ignore[assignment]
