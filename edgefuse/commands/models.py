"""`edgefuse models`: list the reference models."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgefuse.commands import console

EXAMPLES = Path(__file__).parents[2] / "examples"


@dataclass(frozen=True)
class ReferenceModel:
    """A model of the source checkout: its inputs, its purpose, and the factory that builds it."""

    name: str
    modalities: tuple[str, ...]
    summary: str
    factory: str


REFERENCE_MODELS = (
    ReferenceModel(
        name="digits",
        modalities=("image", "audio", "text"),
        summary="which digit is shown, said and typed? CNN, causal convolutions + attention, transformer, fusion",
        factory="edgefuse.models.digits:build",
    ),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--json", action="store_true", help="write JSON")


def run(arguments: argparse.Namespace, extra: Sequence[str]) -> int:
    """List name, modalities and a line about each."""
    if arguments.json:
        console.write_json(REFERENCE_MODELS)
    else:
        rows = [(model.name, " + ".join(model.modalities), model.summary) for model in REFERENCE_MODELS]
        console.write(console.table(("name", "modalities", "purpose"), rows))
        if not EXAMPLES.is_dir():
            console.write("They are not part of an installed edgefuse: clone the repository to build and run them.")
    return 0
