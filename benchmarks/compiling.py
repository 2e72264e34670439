"""A compile, an export, or another module, in a process of its own, for benchmarks that need bundles."""

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
    run("edgefuse", words, folder / "compile.log", f"the compile of '{named}' failed", good=_COMPILED)
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
    run("edgefuse", words, bundle.parent / "export.log", f"the export of '{named}' failed")


def run(
    module: str,
    words: Sequence[str],
    log: Path,
    failed: str,
    *,
    good: Sequence[int] = (0,),
    root: Path | None = None,
    most_s: float | None = None,
) -> None:
    """Run a module in a process of its own.

    Args:
        module: its name.
        words: of its command line.
        log: the file for its stderr; stdout is not kept.
        failed: the sentence that says that it failed.
        good: its exit codes if it did not.
        root: the folder that it is run in; this one if None.
        most_s: that it may take; None: for ever.

    Raises:
        MeasureError: it failed, with the last line of its log.
    """
    command = [sys.executable, "-m", module, *words]
    with log.open("wb") as stderr:
        try:
            done = subprocess.run(
                command, cwd=root, stdout=subprocess.DEVNULL, stderr=stderr, timeout=most_s, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise MeasureError(failed, got="no end", expected=f"one within {most_s:g} s") from error
    if done.returncode not in good:
        said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or [f"code {done.returncode}"]
        raise MeasureError(failed, got=said[-1])
