"""Threads may read their first bundles and tokenizers at the same time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

# Each process does it once: what a type's first use makes is kept. Threads change places as often as they can.
READ = """
import sys, threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from edgefuse.bundle.reader import open_bundle
sys.setswitchinterval(1e-6)
together = threading.Barrier(4)
def read(path):
    together.wait()
    with open_bundle(path) as bundle:
        bundle.verify()
with ThreadPoolExecutor(4) as pool:
    list(pool.map(read, [sys.argv[1]] * 4))
"""


def test_the_first_bundles_of_four_threads(folder: Path) -> None:
    for _ in range(8):  # without a decoder made beforehand, msgspec ends every third process
        done = subprocess.run([sys.executable, "-c", READ, str(folder)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
