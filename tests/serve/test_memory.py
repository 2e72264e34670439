"""Memory that large requests took goes back to the system."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest

from edgefuse.serve.memory import give_back_large_blocks

CODE = """
import sys, threading
from edgefuse.measure.memory import current_rss_bytes
from edgefuse.serve.memory import give_back_large_blocks

SIZE, THREADS = 16 << 20, 4

def answer():
    for _ in range(3):  # the first is given back in any case
        b"x" * SIZE
    ended.wait()
    ready.wait()

if "asked" in sys.argv:
    assert give_back_large_blocks()
before, ended, ready = current_rss_bytes(), threading.Barrier(THREADS + 1), threading.Barrier(THREADS + 1)
threads = [threading.Thread(target=answer) for _ in range(THREADS)]
for thread in threads:
    thread.start()
ended.wait()
print((current_rss_bytes() - before) // SIZE)
ready.wait()
for thread in threads:
    thread.join()
"""


def grown(*words: str) -> int:
    """Return by how many large blocks a process has grown in which threads took and freed some."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    command = [sys.executable, "-c", CODE, *words]
    return int(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(
    not sys.platform.startswith("linux") or not hasattr(ctypes.CDLL(None), "mallopt"), reason="not checked: no glibc"
)
def test_large_blocks_go_back_to_the_system() -> None:
    assert grown("asked") <= 0  # without that, it is some 4


def test_who_has_set_a_variable_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "65536")
    assert not give_back_large_blocks()
