"""The folder in which torch's compiler builds, which is removed when this process ends.

Left alone it fills the system's folder for temporary files with sources, libraries and a precompiled header of 150 MB,
which stay. A folder for each call is not possible: torch remembers paths in it for as long as the process lives.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache, partial
from pathlib import Path

VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
"""Names the folder; Triton's kernels go there, too, unless `TRITON_CACHE_DIR` is set."""

_PREFIX, _OWNER = "edgefuse-inductor-", "owner"


@cache
def use_own_folder() -> None:
    """Send what torch builds from now on to a folder of this process, unless the user named one.

    It is best called before torch's compiler is imported, which already makes the folder. Torch sets the variable, too,
    to what it takes by default. Workers inherit the folder of the process that started them.
    """
    default = str(Path(tempfile.gettempdir(), "torchinductor_"))
    if os.environ.get(VARIABLE, default).startswith(default):
        os.environ[VARIABLE] = _own_folder()


@contextmanager
def building() -> Iterator[None]:
    """Keep to that folder what torch's compiler leaves elsewhere: headers, and what the C++ compiler did not finish."""
    from torch._inductor import codecache  # brings all of the compiler, which takes a while

    headers = Path(os.environ[VARIABLE]).absolute() / "precompiled_headers"
    codecache._HEADER_DIR, codecache._HEADER_LOCK_DIR = str(headers), str(headers / "locks")
    before = os.environ.get("TMPDIR")
    os.environ["TMPDIR"] = _own_folder()
    try:
        yield
    finally:
        del os.environ["TMPDIR"]
        os.environ.update({} if before is None else {"TMPDIR": before})


@cache
def _own_folder() -> str:
    """Make the folder of this process, and remove those of processes that were killed."""
    for other in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError):  # it is somebody else's, or its process lives
            os.close(_locked(other / _OWNER, 0))
            shutil.rmtree(other)
    folder = tempfile.mkdtemp(prefix=_PREFIX)
    # Held until this process ends, whatever ends it; under that name from the moment on at which it is held.
    _locked(Path(folder, f"{_OWNER}.new"), os.O_CREAT)
    Path(folder, f"{_OWNER}.new").rename(Path(folder, _OWNER))
    atexit.register(partial(_remove, folder, os.getpid()))
    return folder


def _locked(path: Path, flags: int) -> int:
    """Open a file and lock it; an OSError if another process has."""
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | flags, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _remove(folder: str, owner: int) -> None:
    if os.getpid() == owner:  # and not a fork of it
        for again in (signal.SIGINT, signal.SIGTERM):  # whoever asks for the end once more does not mean this
            signal.signal(again, signal.SIG_IGN)
        shutil.rmtree(folder, ignore_errors=True)
