"""A compile in a process of its own, for benchmarks that need bundles."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from edgefuse.errors import MeasureError

_COMPILED = (0, 1)
"""Exit codes of a compile that has written what it found, within the budget or not."""


def compiled(named: str, recipe: Path, folder: Path, *, jobs: int, targets: Sequence[str]) -> Path:
    """Compile a recipe, whose work is found in the cache if it was done before, and return the report.

    Args:
        named: what is compiled, in the sentence that says that it failed.
        recipe: its path.
        folder: of bundles, report and log.
        jobs: at the same time.
        targets: that are compiled for.

    Raises:
        MeasureError: the compile failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log, asked = folder / "compile.log", [word for name in targets for word in ("--target", name)]
    words = ["compile", str(recipe), "--out", str(folder), "--jobs", str(jobs), *asked]
    with log.open("wb") as stderr:
        done = subprocess.run(
            [sys.executable, "-m", "edgefuse", *words], stdout=subprocess.DEVNULL, stderr=stderr, check=False
        )
    if done.returncode not in _COMPILED:
        said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or [f"code {done.returncode}"]
        raise MeasureError(f"the compile of '{named}' failed", got=said[-1])
    return folder / "report.json"
