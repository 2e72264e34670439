"""`edgefuse demo`: compile and run a reference model from a source checkout."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from edgefuse.commands import models
from edgefuse.errors import DataError, shown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("name", metavar="NAME", help="a reference model whose example has a demo.py")
    parser.add_argument(
        "-o", "--out", type=Path, default=Path("out/demo"), help="folder for bundles and report (default: out/demo)"
    )


def run(arguments: argparse.Namespace, extra: Sequence[str]) -> int:
    """Run the demo's script and return its exit code."""
    scripts = {script.parent.name: script for script in sorted(models.EXAMPLES.glob("*/demo.py"))}
    if not scripts:
        raise DataError(
            "demos are not part of an installed edgefuse",
            got=f"no file {models.EXAMPLES / '*' / 'demo.py'}",
            fix="clone the repository and call it there",
        )
    script = scripts.get(arguments.name)
    if script is None:
        raise DataError("there is no such demo", got=f"'{shown(arguments.name)}'", expected=", ".join(scripts))
    return subprocess.run([sys.executable, str(script), "--out", str(arguments.out)], check=False).returncode
