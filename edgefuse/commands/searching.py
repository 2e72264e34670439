"""What `edgefuse run --index` does: embed a query, and show what an index has near to it."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from edgefuse.bundle.spec import ModelSpec, TextPreprocess
from edgefuse.commands import console
from edgefuse.commands.arguments import whole
from edgefuse.commands.quieting import quiet_libraries
from edgefuse.errors import InputError, shown
from edgefuse.runtime.pipeline import Pipeline
from edgefuse.runtime.retrieval.encoder import embed
from edgefuse.runtime.retrieval.index import Index

_MAX_NAME = 300
_MOST = 10_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of a search."""
    parser.add_argument("--index", type=Path, metavar="INDEX", help="search what 'edgefuse index' wrote")
    parser.add_argument("--query", metavar="TEXT", help="with --index: the text to search for")
    parser.add_argument("--top", type=whole(1, _MOST), default=10, metavar="K", help="how many to show (default: 10)")


def query(arguments: argparse.Namespace, spec: ModelSpec) -> dict[str, object]:
    """Return the raw input that `--query` gives: the text of the model's one modality of text.

    Raises:
        InputError: if there is none to search, or the model has no such modality, or several.
    """
    if arguments.query is None:
        return {}
    if arguments.index is None:
        raise InputError("a query needs an index to search", got="--query without --index", fix="name one with --index")
    texts = [modality.name for modality in spec.modalities if isinstance(modality.preprocess, TextPreprocess)]
    if len(texts) != 1:
        raise InputError(
            f"'{spec.name}' does not take one text",
            got=", ".join(texts) or "no modality of text",
            expected="one, for --query",
            fix="give the query by the name of its modality, as 'edgefuse run --help' says",
        )
    return {texts[0]: arguments.query}


def search(arguments: argparse.Namespace, pipeline: Pipeline, raw: Mapping[str, object]) -> int:
    """Search an index for raw inputs, show what is nearest, and return the exit code.

    Args:
        arguments: of the command line.
        pipeline: embeds the inputs.
        raw: the inputs by modality.
    """
    with Index.open(arguments.index, pipeline) as index:
        with quiet_libraries():
            inputs = pipeline.preprocess(**raw)
        (hits,) = index.search(embed(pipeline, inputs), arguments.top)
        if arguments.json:
            found = [hit._asdict() for hit in hits]
            console.write_json({"rung": pipeline.rung.name, "present": inputs.present, "of": len(index), "hits": found})
        else:
            console.write(
                console.table(("score", "name"), [(f"{h.score:.4f}", shown(h.name, _MAX_NAME)) for h in hits])
            )
            console.write(f"of {len(index)} by {' + '.join(inputs.present)}, rung '{pipeline.rung.name}'")
    return 0
