"""`edgefuse demo`: compile and run a reference model from a source checkout."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from edgefuse.commands import models
from edgefuse.errors import DataError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("name", metavar="NAME", choices=[model.name for model in models.REFERENCE_MODELS])
    parser.add_argument(
        "-o", "--out", type=Path, default=Path("out/demo"), help="folder for bundles and report (default: out/demo)"
    )


def run(arguments: argparse.Namespace, extra: Sequence[str]) -> int:
    """Run the demo's script and return its exit code."""
    script = models.EXAMPLES / arguments.name / "demo.py"
    if not script.exists():
        raise DataError(
            f"the demo '{arguments.name}' is not part of an installed edgefuse",
            got=f"no file {script}",
            fix="clone the repository and call it there",
        )
    return subprocess.run([sys.executable, str(script), "--out", str(arguments.out)], check=False).returncode
