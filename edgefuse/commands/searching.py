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
_TOP = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of a search."""
    parser.add_argument("--index", type=Path, metavar="INDEX", help="search what 'edgefuse index' wrote")
    parser.add_argument("--query", metavar="TEXT", help="with --index: the text to search for")
    parser.add_argument(
        "--top", type=whole(1, _MOST), metavar="K", help=f"with --index: how many to show (default: {_TOP})"
    )


def query(arguments: argparse.Namespace, spec: ModelSpec, given: Mapping[str, object]) -> dict[str, object]:
    """Return the raw input that `--query` gives: the text of the model's one modality of text.

    Args:
        arguments: of the command line.
        spec: of the model.
        given: the raw inputs that other options give.

    Raises:
        InputError: if there is none to search, the model has no such modality, or several, or the text is given twice.
    """
    if arguments.index is None and (arguments.query is not None or arguments.top is not None):
        option = "--query" if arguments.query is not None else "--top"
        raise InputError(
            f"{option} is of a search, which needs an index",
            got=f"{option} without --index",
            fix="name one with --index",
        )
    if arguments.index is not None and arguments.generate:
        raise InputError("a search makes no tokens", got="--generate beside --index", fix="leave one of them out")
    if arguments.query is None:
        return {}
    texts = [modality.name for modality in spec.modalities if isinstance(modality.preprocess, TextPreprocess)]
    if len(texts) != 1:
        raise InputError(
            f"'{spec.name}' does not take one text",
            got=", ".join(texts) or "no modality of text",
            expected="one, for --query",
            fix="give the query by the name of its modality, as 'edgefuse run --help' says",
        )
    if texts[0] in given:
        raise InputError(f"the text '{texts[0]}' is given twice", got=f"--query beside --{texts[0]}", expected="either")
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
        (hits,) = index.search(embed(pipeline, inputs), arguments.top or _TOP)
        if arguments.json:
            found = [hit._asdict() for hit in hits]
            console.write_json({"rung": pipeline.rung.name, "present": inputs.present, "of": len(index), "hits": found})
        else:
            console.write(
                console.table(("score", "name"), [(f"{h.score:.4f}", shown(h.name, _MAX_NAME)) for h in hits])
            )
            console.write(f"of {len(index)} by {' + '.join(inputs.present)}, rung '{pipeline.rung.name}'")
    return 0
