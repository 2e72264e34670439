"""`edgefuse swap`: ask a running process to answer with another bundle."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from edgefuse.commands import console
from edgefuse.runtime import control


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = (
        "The process listens at the socket since it called 'live.listen(SOCKET)' of an 'edgefuse.Live'. "
        "What it refuses is an error here, and changes nothing there."
    )
    parser.add_argument("socket", type=Path, metavar="SOCKET")
    parser.add_argument("bundle", type=Path, metavar="BUNDLE")
    parser.add_argument("--digest", help="the digest that the bundle must have")


def run(arguments: argparse.Namespace, extra: Sequence[str]) -> int:
    """Ask, and show what the process says."""
    said = control.ask(arguments.socket, str(arguments.bundle.absolute()), arguments.digest)
    console.write(f"ok: {said}")
    return 0
