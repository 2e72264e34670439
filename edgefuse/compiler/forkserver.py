"""The process that workers are forked from: it has imported what compiles, and has done nothing else.

Importing takes seconds of processor time. One process does it for all workers, beside the process that takes the model
apart, so that a worker starts at once. It has a single thread, which a fork survives, and goes with the process that
started it. Where there are no fork servers (Windows), every worker imports for itself.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

ONE_THREAD = {"OMP_NUM_THREADS": "1"}
"""The environment that a worker starts with: as many workers as cores, a thread each."""

UNGUARDED = 79
"""The exit code of a worker that came to a compile again while it imported the script that had started it."""

_IMPORTED = ["edgefuse.compiler.preloaded"]

if sys.platform == "win32":
    CONTEXT = multiprocessing.get_context("spawn")
else:
    CONTEXT = multiprocessing.get_context("forkserver")


def start() -> None:
    """Let that process begin to import; nothing happens if it runs already, or this is a worker."""
    if sys.platform == "win32" or multiprocessing.parent_process() is not None:
        return
    from multiprocessing import forkserver

    CONTEXT.set_forkserver_preload(_IMPORTED)
    with one_thread():
        forkserver.ensure_running()


def leave_imported_script() -> None:
    """End this process if it is a worker that is only importing the user's script, which compiles when it is imported.

    A worker imports the script to find the classes of the model. One that compiled, too, would do all work twice, and
    be refused by `multiprocessing` with a page of its own when it came to start workers.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):  # as `multiprocessing` itself asks
        os._exit(UNGUARDED)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let processes that start within the block inherit `ONE_THREAD`: libraries read it when they are loaded."""
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(ONE_THREAD)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
