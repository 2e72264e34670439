"""`edgefuse models`: list the reference models."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from edgefuse.commands import console
from edgefuse.models.catalogue import REFERENCE_MODELS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--json", action="store_true", help="write JSON")


def run(arguments: argparse.Namespace, extra: Sequence[str]) -> int:
    """List name, modalities and a line about each."""
    if arguments.json:
        console.write_json(REFERENCE_MODELS)
    else:
        rows = [(model.name, " + ".join(model.modalities), model.summary) for model in REFERENCE_MODELS]
        console.write(console.table(("name", "modalities", "what it does"), rows))
    return 0
