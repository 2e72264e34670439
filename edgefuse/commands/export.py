"""`edgefuse export`: a bundle with schemes that are named, without a search."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import msgspec

from edgefuse.commands import console, ending
from edgefuse.commands.arguments import add_cache
from edgefuse.errors import RecipeError, needing, shown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("recipe", type=Path, metavar="RECIPE.toml")
    parser.add_argument("--target", required=True, metavar="NAME", help="target of the bundle")
    parser.add_argument(
        "--scheme",
        action="append",
        type=_scheme,
        default=[],
        metavar="STAGE=SCHEME",
        help="scheme of a stage, float where none is named; may be repeated",
    )
    parser.add_argument(
        "-o", "--out", type=Path, required=True, metavar="BUNDLE", help="the bundle: NAME.edgefuse, or a folder"
    )
    add_cache(parser)
    parser.add_argument("--json", action="store_true", help="write path, digest and agreement with torch as JSON")


@ending.as_interrupted()
def run(arguments: argparse.Namespace, extra: Sequence[str]) -> int:
    """Export; an error if a file does not answer like torch."""
    schemes: dict[str, str] = {}
    for stage, scheme in arguments.scheme:
        if stage in schemes:
            raise RecipeError(f"--scheme names two schemes of the stage '{shown(stage)}'", expected="one of them")
        schemes[stage] = scheme
    with needing("exporting", extra="compile"):
        from edgefuse.compiler import export
    with console.drawn_progress() as progress:
        made = export(
            arguments.recipe,
            arguments.target,
            out=arguments.out,
            schemes=schemes,
            cache=arguments.cache,
            progress=progress,
        )
    if arguments.json:
        golden = msgspec.to_builtins(made.golden)
        console.write_json({"bundle": str(made.bundle), "digest": made.digest, "golden": golden})
    else:
        console.write(made.summary.split("\n"))
    return 0


def _scheme(text: str) -> tuple[str, str]:
    """Convert a stage and its scheme, for argparse."""
    stage, _, scheme = text.partition("=")
    if not stage or not scheme:
        raise argparse.ArgumentTypeError(f"{shown(text)!r} is not STAGE=SCHEME, as fusion=dynamic_wi8_af32")
    return stage, scheme
