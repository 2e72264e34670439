"""A compile, or an export, in a process of its own, for benchmarks that need bundles."""

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
    asked = [word for name in targets for word in ("--target", name)]
    words = ["compile", str(recipe), "--out", str(folder), "--jobs", str(jobs), *asked]
    _run(words, folder / "compile.log", f"the compile of '{named}' failed", good=_COMPILED)
    return folder / "report.json"


def exported(named: str, recipe: Path, bundle: Path, target: str) -> None:
    """Export a recipe in float; see `compiled`.

    Args:
        named: what is exported, in the sentence that says that it failed.
        recipe: its path.
        bundle: the file that is written; its log lies beside it.
        target: that is exported for.

    Raises:
        MeasureError: the export failed.
    """
    bundle.parent.mkdir(parents=True, exist_ok=True)
    words = ["export", str(recipe), "--target", target, "--out", str(bundle)]
    _run(words, bundle.parent / "export.log", f"the export of '{named}' failed")


def _run(words: Sequence[str], log: Path, failed: str, *, good: Sequence[int] = (0,)) -> None:
    """Run `edgefuse`, and raise a `MeasureError` with the last line of its log where its code is not a good one."""
    with log.open("wb") as stderr:
        done = subprocess.run(
            [sys.executable, "-m", "edgefuse", *words], stdout=subprocess.DEVNULL, stderr=stderr, check=False
        )
    if done.returncode not in good:
        said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or [f"code {done.returncode}"]
        raise MeasureError(failed, got=said[-1])
